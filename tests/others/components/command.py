"""A command: says its arguments, a variable and a file's text, writes beside it, and ends with 7."""

import os
import sys
from pathlib import Path

from wit_world import exports
from wit_world.imports import environment, exit


class Run(exports.Run):
    def run(self) -> None:
        print("arguments:", *environment.get_arguments()[1:], sep="\n")
        print("colour:", os.environ.get("COLOUR"))
        text = Path("/data/question").read_text()
        Path("/data/answer").write_text(text.upper())
        print("on stderr", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        exit.exit_with_code(7)
