"""``python -m tests.harness.kubeconfigs [KUBECTL]``: record what kubectl does with each row."""

import json
import sys
import tempfile
from pathlib import Path

from tests.harness.kubeconfigs.programs import run_kubectl, version
from tests.harness.kubeconfigs.rows import RECORDED, read_rows
from tests.harness.kubeconfigs.servers import Servers


def main(program: str = "kubectl") -> None:
    """Run kubectl with each row, and write what the servers heard."""
    rows = {}
    with tempfile.TemporaryDirectory() as root, Servers(Path(root)).running() as servers:
        for number, row in enumerate(read_rows()):
            folder = Path(root) / str(number)
            folder.mkdir()
            rows[row.name] = run_kubectl(row, servers, folder, program)
    document = {"kubectl": version(program), "rows": rows}
    RECORDED.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
