"""Runs each command in a terminal, with attacks in the cluster, kit, job and log: no attack takes effect."""

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from flargo.terms import Object
from flargo.text import inert
from tests.harness import terminal
from tests.harness.attacks import ALL_ATTACKS, ATTACKS, BYTE_ATTACKS, bad_characters
from tests.harness.kubernetes_api import as_kubernetes
from tests.harness.objects import RUNNING, job_workflow, pod, terminated_state
from tests.harness.paths import ROOT

FLARGO = [sys.executable, "-c", "import sys; sys.argv[0] = 'flargo'; from flargo.tools.cli.main import main; main()"]
DEMO = """
from flargo.tools.demo.progress import Party, Round, Snapshot
from flargo.tools.demo.screen import Progress, Screen
from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.tools.terminal import console
from tests.harness.attacks import ATTACKS
screen = Screen(console())
for attack in ATTACKS.values():
    screen.print_line(attack, attack, "bold red")
    screen.print_detail(attack, "dim")
    with Progress(screen, 2) as shown:
        shown.show(Snapshot((Party(attack, attack, Stage.ENDED, Reason.IMAGE, attack),), attack, (Round(1, 1, 2),)))
"""
MARK = "Attacked"
"""A plain word beside the attacks: where it is shown, the attacks were there too."""
EVIL = f"{MARK} {ALL_ATTACKS}"
Run = Callable[..., str]


def workflows() -> list[Object]:
    notes = {"flargo.dev/job-name": EVIL, "flargo.dev/ending-detail": EVIL, "flargo.dev/ending": "IMAGE"}
    labels = {"flargo.dev/study": EVIL, "flargo.dev/role": EVIL, "flargo.dev/federation": EVIL, "flargo.dev/site": EVIL}
    node = {"job-1": {"type": "Pod", "phase": "Pending", "message": EVIL, "displayName": EVIL}}
    one = job_workflow("job-1", site=EVIL, uid="w1", notes=notes, message=EVIL, nodes=node)
    two = job_workflow(
        "job-2", site=f"b {EVIL}", uid="w2", phase="Failed", message=EVIL, finishedAt="2020-01-01T00:00:00Z"
    )
    broken = job_workflow("job-3", job_id="2222", site=f"c {EVIL}", uid="w3", phase="", suspend=True)
    for each in (one, two, broken):
        each["metadata"]["labels"] |= labels
    return [one, two, broken]


def pods() -> list[Object]:
    status: Object = {"message": EVIL, "reason": EVIL, "conditions": [{"type": EVIL, "reason": EVIL, "message": EVIL}]}
    one = pod("job-1", uid="p1", owner="w1", main=RUNNING, **status)
    two = pod("job-2", uid="p2", owner="w2", main=terminated_state(3, EVIL), phase="Failed", **status)
    two["status"]["containerStatuses"][1]["state"]["terminated"]["message"] = EVIL
    for each in (one, two):
        each["spec"] |= {"nodeName": EVIL}
        each["spec"]["containers"][0]["resources"] = {"limits": {f"x.example/{EVIL}": "1"}}
    return [one, two]


EVENT: Object = {"type": "Warning", "reason": EVIL, "message": EVIL, "involvedObject": {"uid": "p1"}, "count": 3}
STATUS: Object = {"kind": "Status", "reason": EVIL, "message": EVIL}
LOG = b"".join(
    b"2026-01-01T00:00:00.%09dZ %b\n" % (at, line)
    for at, line in enumerate(
        b"\n".join(
            [
                *(f"{MARK} {attack}".encode(errors="surrogatepass") for attack in ATTACKS.values()),
                *BYTE_ATTACKS.values(),
            ]
        ).split(b"\n")
    )
)
LISTS: dict[str, Callable[[], list[Object]]] = {"workflows": workflows, "pods": pods, "events": lambda: [EVENT]}


class Hostile(BaseHTTPRequestHandler):
    """Lists objects that are full of attacks, and refuses all other requests with attacks in the message."""

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.endswith("/log"):
            self._answer(200, LOG, "text/plain")
        elif path == "/version":
            self._answer(200, json.dumps({"gitVersion": EVIL}).encode())
        elif path.rpartition("/")[0].endswith("/flare/workflows"):
            (item,) = (each for each in workflows() if each["metadata"]["name"] == path.rpartition("/")[2])
            self._answer(200, json.dumps(as_kubernetes("GET", path, item)).encode())
        elif path.rpartition("/")[2] in LISTS and "/flare/" in path:
            items = LISTS[path.rpartition("/")[2]]()
            page = {"items": items, "metadata": {"resourceVersion": "1"}}
            self._answer(200, json.dumps(as_kubernetes("GET", path, page)).encode())
        else:
            self._answer(404 if "secrets" in path else 500, json.dumps(STATUS).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "selfsubjectreviews" in self.path:
            review = {"status": {"userInfo": {"username": EVIL}}}
            self._answer(201, json.dumps(as_kubernetes("POST", self.path, review)).encode())
        else:
            self._answer(422, json.dumps(STATUS).encode())

    do_PATCH = do_PUT = do_DELETE = do_POST  # noqa: N815  (as the standard library calls them)

    def _answer(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    path = tmp_path_factory.mktemp("cluster") / "config"
    names = {"cluster": "c", "user": "u", "namespace": "flare"}
    document = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "one", "context": names}],
        "current-context": "one",
    }
    path.write_text(yaml.safe_dump(document))
    yield path
    server.shutdown()
    server.server_close()


def run_on_terminal(arguments: Sequence[str | Path], kubeconfig: Path, **variables: str) -> str:
    """Run a command in a terminal of its own, and return what it writes."""
    environment = {"KUBECONFIG": str(kubeconfig), "PYTHONPATH": str(ROOT), **variables}
    _, screen_text = terminal.run_in_terminal(arguments, 160, environment)
    return screen_text


COMMANDS: dict[str, tuple[tuple[str, ...], str]] = {
    "jobs": (("jobs",), MARK),
    "why": (("why", "11111111"), MARK),
    "logs": (("logs", "11111111"), MARK),
    "logs -f": (("logs", "11111111", "--site", "job-2", "-f"), MARK),
    "terminate": (("terminate", "11111111"), MARK),
    "sweep": (("sweep", "--dry-run"), MARK),
    "a sweep that is refused": (("sweep",), MARK),
    "doctor": (("doctor", "--wait", "0.5"), MARK),
    "a job that is not there": (("why", EVIL), "no job"),
    "wrong usage": (("jobs", EVIL), "Got unexpected extra argument"),
    "a file that is not there": (("render", EVIL), "does not exist"),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_attacks_of_a_cluster_are_inert(case: str, kubeconfig: Path) -> None:
    arguments, expected = COMMANDS[case]
    screen_text = run_on_terminal(
        [*FLARGO, *(word.replace("\0", "").encode(errors="replace").decode() for word in arguments)], kubeconfig
    )
    assert expected in screen_text
    assert "Traceback" not in screen_text
    assert bad_characters(screen_text.encode()) == set()


COLORED = {"jobs": "jobs", "doctor": "doctor --wait 0.5", "logs": "logs 11111111"}
"""Commands that use colours, with their arguments."""
COLOR = re.compile(r"\x1b\[(?:\d+;)*[349]\d(?:;\d+)*m")


@pytest.mark.parametrize("name", COLORED)
def test_colours_can_be_turned_off(name: str, kubeconfig: Path) -> None:
    arguments = [*FLARGO, *COLORED[name].split()]
    assert COLOR.search(run_on_terminal(arguments, kubeconfig))
    assert not COLOR.search(run_on_terminal(arguments, kubeconfig, NO_COLOR="1"))
    assert "\x1b" not in run_on_terminal(arguments, kubeconfig, TERM="dumb")


def test_json_on_a_terminal_is_inert(kubeconfig: Path) -> None:
    screen_text = run_on_terminal([*FLARGO, "logs", "11111111", "--site", "job-2", "--json"], kubeconfig)
    assert screen_text.isascii()
    assert bad_characters(screen_text.encode()) == set()


def add_attacks(kit: Path) -> None:
    """Put attacks into all texts of a kit with which it can still be used."""
    resources = json.loads((kit / "local/resources.json.default").read_text())
    resources["components"].append({"id": EVIL, "path": EVIL, "args": {"a": EVIL}})
    resources["components"].append(
        {
            "id": EVIL,
            "path": "nvflare.app_common.resource_managers.gpu_resource_manager.GPUResourceManager",
            "args": {"a": EVIL},
        }
    )
    (kit / "local/resources.json.default").write_text(
        json.dumps(resources, ensure_ascii=False).encode(errors="replace").decode()
    )
    values = yaml.safe_load((kit / "helm_chart/values.yaml").read_text())
    values["image"] = {"repository": EVIL, "tag": EVIL}
    (kit / "helm_chart/values.yaml").write_text(yaml.safe_dump(values))


@pytest.mark.parametrize(
    "arguments",
    [
        ("prepare", "KIT", "--dry-run"),
        ("prepare", "KIT"),
        ("render", "META", "--kit", "KIT"),
        ("doctor", "--kit", "KIT", "--job", "META"),
    ],
    ids=["prepare --dry-run", "prepare", "render", "doctor"],
)
def test_attacks_of_kits_and_jobs_are_inert(
    arguments: tuple[str, ...], kit: Callable[[str], Path], kubeconfig: Path, tmp_path: Path
) -> None:
    root, meta = kit("k8s/site-1"), tmp_path / "meta.json"
    add_attacks(root)
    spec = {"default": {"k8s": {"image": "x", EVIL: EVIL}}}
    meta.write_text(json.dumps({"name": EVIL, "study": "", "launcher_spec": spec, EVIL: EVIL}))
    paths = {"KIT": root, "META": meta}
    screen_text = run_on_terminal([*FLARGO, *(paths.get(word, word) for word in arguments)], kubeconfig)
    assert MARK in screen_text
    assert "Traceback" not in screen_text
    assert bad_characters(screen_text.encode()) == set()


def test_attacks_in_the_demo_are_inert(kubeconfig: Path) -> None:
    """The live picture moves the cursor itself; any other control sequence comes from an attack."""
    screen_text = run_on_terminal([sys.executable, "-c", DEMO], kubeconfig)
    assert all(inert(attack) in screen_text for attack in ATTACKS.values())
    assert bad_characters(terminal.CONTROL.sub("", screen_text).encode()) == set()
