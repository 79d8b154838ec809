"""The only stateful room: submits plans, holds all lives, performs what they ask for."""
