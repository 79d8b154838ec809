"""Texts that somebody could choose to deceive or to attack whoever sees them in the Argo UI."""

from hypothesis import strategies as st

HOSTILE = st.one_of(
    st.text(),
    st.text(st.sampled_from("ab `*_[]()<>!#|\\{}\n\r\t-.:/@~&;x.onExit\u202e\u200b病")),
    st.sampled_from(
        [
            "[free](http://evil.example)",
            "![x](http://evil.example/x.png)",
            "<img src=x onerror=alert(1)>",
            "www.evil.example a@evil.example https://evil.example",
            "`````",
            "` <b>x</b> `",
            "{{workflow.name}}",
            "a\n# b\n\n- c\n| d | e |\n|---|---|\n| f | g |",
            "x.onExit",
        ]
    ),
)
