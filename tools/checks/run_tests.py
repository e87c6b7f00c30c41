"""Sets up once, then checks the style and runs the tests on both lines of transformers.

    ./run-tests [PYTEST ARGUMENTS]   with the locked versions of environments/
    ./run-tests --newest             with the newest of everything, in new environments; torch is
                                     what TORCH says
    ./run-tests --gpu                only the tests that need a GPU, on the Python that PYTHON
                                     names, as it is: nothing is installed

Then it tries torchvision (it changes transformers' image processors), lmms-eval (the evaluation
harness; with it Parquet and `datasets`) and the other Pythons. What is not available is
named with the reason and fails nothing, except with --newest. Whatever fails, the rest still runs.

Needs no package. Knows nothing of single tests, which pytest finds.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINES = {"newest": ("5", "transformers>=5"), "4.57": ("4.57", "transformers>=4.57,<4.58")}
"""Environments by the end of their name: the lock, and what replaces it in --newest."""

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
STYLE = ("python -m ruff check .", "python -m ruff format --check .", "python -m mypy")
"""As in .pre-commit-config.yaml; `python` is the environment's."""

LMMS_EVAL = "lmms-eval==0.7.3"
LMMS_EVAL_IMPORTS = (
    "datasets, dotenv, evaluate, loguru, pytablewriter, pytz, sacrebleu, tenacity, filelock, "
    "lmms_eval.evaluator"
)
FIRST_LINE_ALONE = {
    "tests/core": (
        *("cli", "many", "many_libraries"),  # whole runs, slow
        *("counterfactual", "crop", "geometry", "layout", "pictures", "render", "settings", "vaq"),
    ),
    "tests/benchmark": ("aggregate", "compare", "reproduce", "referring", "result_lines"),
}
LIBRARY_TESTS = (*FIRST_LINE_ALONE, "tests/nodes/test_load.py")
LIBRARY_TESTS += tuple(
    f"--ignore={folder}/test_{name}.py"
    for folder, names in FIRST_LINE_ALONE.items()
    for name in names
)
"""What differs between the lines of transformers: whole runs do not, nor what knows no model."""

TORCHVISION_TESTS = (
    *(f"tests/core/test_{name}.py" for name in ("families", "loading")),
    "tests/core/test_pipeline.py::test_extreme_pictures_are_answered",
    "tests/nodes/test_load.py",
)
LMMS_EVAL_TESTS = (
    "tests/benchmark/test_lmms_eval.py",
    "tests/benchmark/test_data_sets.py",
    "tests/core/test_many_libraries.py",
)
LMMS_EVAL_NEEDS = ROOT / "tests/benchmark/requirements.txt"

PIPE = subprocess.PIPE
QUIET = {"stdout": PIPE, "stderr": PIPE, "text": True}
# One thread each: threads that wait for a busy core slow the decoding of a tiny model tenfold
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
# Where no bytecode is written, every process that a test starts compiles the libraries anew
ENVIRONMENT |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(ROOT / ".venv-bytecode")}


@dataclass
class Runner:
    """newest: without the locks. failed: what to name in the end."""

    newest: bool
    failed: list[str] = field(default_factory=list)

    def check(self, title: str, command: Sequence[object], **environment: str) -> bool:
        done = subprocess.run(command, cwd=ROOT, env={**ENVIRONMENT, **environment})
        if done.returncode:
            self.failed.append(title)
        return not done.returncode

    def environment(self, name: str) -> Path | None:
        """The Python of a virtual environment, made by the script that run-demo uses too."""
        folder = self.folder(name)
        if self.newest:  # those of an earlier run are no longer the newest
            shutil.rmtree(folder, ignore_errors=True)
        command = [ROOT / "environments" / "setup_env.sh"]
        if os.name == "nt":
            command = ["powershell", "-NoProfile", "-ExecutionPolicy", "Bypass", "-File"]
            command += [ROOT / "environments" / "setup_env.ps1"]
        command += [folder.name, *self.versions(name), "-r", "tests/requirements.txt"]
        made = self.check(f"setting up {folder.name}", command, PYTHON=sys.executable)
        inside = "Scripts/python.exe" if os.name == "nt" else "bin/python"
        return folder / inside if made else None

    def folder(self, name: str) -> Path:
        return ROOT / f".venv-{'unlocked-' if self.newest else ''}{name}"

    def versions(self, name: str) -> list[str]:
        """What pip is told of them; name: an environment's."""
        lock, bounds = LINES[name]
        return [bounds] if self.newest else ["-c", f"environments/transformers-{lock}.txt"]

    def absent(self, name: str, reason: str) -> None:
        print(f"{name}: absent, nothing ran with it ({reason})", flush=True)
        if self.newest:
            self.failed.append(name)

    def beside(self, python: Path, name: str, modules: str, *installs: list[str]) -> str | None:
        """A PYTHONPATH that has `modules`, next to the environment, which stays without them.

        None, and a line with the reason, where they cannot be had. installs: pip's arguments, a
        list for each call.
        """
        folder = self.folder(name) / "site-packages"  # so called, or `datasets` copies the code
        inputs = [*sorted(ROOT.glob("environments/*.txt")), LMMS_EVAL_NEEDS]
        content = b"".join(path.read_bytes() for path in inputs) + repr(installs).encode()
        wanted, stamp = hashlib.sha256(content).hexdigest(), folder / "installed"
        commands = [[python, "-c", f"import {modules}"]]
        if self.newest or not stamp.is_file() or stamp.read_text() != wanted:
            print(f"setting up {folder}", flush=True)
            shutil.rmtree(folder.parent, ignore_errors=True)
            folder.mkdir(parents=True)
            pip = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--target", folder]
            commands = [*([*pip, "--upgrade", *install] for install in installs), *commands]
        environment = {**ENVIRONMENT, "PYTHONPATH": str(folder)}
        for command in commands:
            done = subprocess.run(command, cwd=ROOT, env=environment, **QUIET)
            if done.returncode:
                return self.absent(name, last_line(done.stderr))
        stamp.write_text(wanted)
        print(f"{name}: present, its tests run", flush=True)
        return str(folder)

    def style(self, python: Path) -> None:
        for line in STYLE:
            self.check(line, [python, *line.split()[1:]])

    def web(self) -> None:
        """What the tests of web/ need, which are skipped without; and the linter."""
        npm = shutil.which("npm")
        if npm is None:
            return self.absent("npm", "the tests of web/ need Node")
        folder = ROOT / "tests" / "web"
        lock, installed = folder / "package-lock.json", folder / "node_modules/.package-lock.json"
        if not installed.is_file() or installed.stat().st_mtime < lock.stat().st_mtime:
            install = [npm, "ci", "--prefix", "tests/web", "--no-audit", "--no-fund"]
            done = subprocess.run(install, cwd=ROOT, **QUIET)
            if done.returncode:
                return self.absent("the packages of tests/web", last_line(done.stderr))
        lint = [npm, "run", "--prefix", "tests/web", "--silent", "--if-present", "lint"]
        self.check("npm run --prefix tests/web lint", lint)

    def pytest(self, python: Path, title: str, tests: Sequence[str]) -> None:
        # worksteal: the slow tests at the end are shared out too
        self.check(title, [python, "-m", "pytest", "-n", "2", "--dist", "worksteal", *tests])

    def beside_others(
        self, python: Path, title: str, tests: Sequence[str], **environment: str
    ) -> str:
        """Runs tests in one process, and gives what it printed; others may run meanwhile."""
        command = [python, "-m", "pytest", *tests]
        together = {"stdout": PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run(command, cwd=ROOT, env={**ENVIRONMENT, **environment}, **together)
        if done.returncode:
            self.failed.append(title)
        return done.stdout

    def torchvision(self, python: Path) -> str | None:
        version = subprocess.run(
            [python, "-c", "import torch; print(torch.__version__)"], stdout=PIPE, text=True
        ).stdout
        minor = int(version.split(".")[1]) + 15  # 0.28 belongs to torch 2.13, and so on
        installs = ["--no-deps", f"torchvision==0.{minor}.*"]
        return self.beside(python, "torchvision", "torchvision", installs)

    def lmms_eval(self, python: Path) -> str | None:
        needs = [*self.versions("newest"), "-r", str(LMMS_EVAL_NEEDS)]
        itself = ["--no-deps", "lmms-eval" if self.newest else LMMS_EVAL]
        return self.beside(python, "lmms-eval", LMMS_EVAL_IMPORTS, needs, itself)

    def other_pythons(self) -> None:
        """Those that the project promises and no test ran on: do they read and import it?"""
        for version in PYTHONS:
            if version == ".".join(map(str, sys.version_info[:2])):
                continue
            if found := python_of(version):
                self.check(f"Python {version}", [found, "tools/checks/check_python.py"])
            else:
                print(f"Python {version}: not tested, it is not installed", flush=True)


def python_of(version: str) -> str | None:
    """Its path or name; pyenv's shims may not run."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    paths = [*pyenv.glob(f"{version}.*/bin/python"), shutil.which(f"python{version}")]
    for path in filter(None, paths):
        if not subprocess.run([path, "-c", ""], **QUIET).returncode:
            return str(path)
    return None


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason was given"])[-1]


def check_everything(newest: bool, arguments: Sequence[str]) -> list[str]:
    """What failed, by its title."""
    runner = Runner(newest)
    with ThreadPoolExecutor() as pool:  # what is needed later is set up beside the first tests
        made = {name: pool.submit(runner.environment, name) for name in LINES}
        first = made["newest"].result()
        if first:
            torchvision = pool.submit(runner.torchvision, first)
            lmms_eval = pool.submit(runner.lmms_eval, first)
        runner.web()
        if first:
            runner.style(first)
        for name, environment in made.items():
            if python := environment.result():
                command = "import transformers as t; print('transformers', t.__version__)"
                runner.check(f"transformers of {name}", [python, "-c", command])
                tests = arguments or ([] if python == first else LIBRARY_TESTS)
                runner.pytest(python, f"tests in {runner.folder(name).name}", tests)
        # Few tests each: to import everything in a second process would take as long as they do
        optional = []
        if first and (path := torchvision.result()):
            given = {"PYTHONPATH": path}
            tests = "torchvision", TORCHVISION_TESTS
            optional.append(pool.submit(runner.beside_others, first, *tests, **given))
        if first and (path := lmms_eval.result()):
            given = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
            tests = "lmms-eval", LMMS_EVAL_TESTS
            optional.append(pool.submit(runner.beside_others, first, *tests, **given))
        runner.other_pythons()
        for printed in optional:
            print(printed.result(), flush=True)
    return runner.failed


def main(arguments: list[str]) -> int | str:
    if arguments[:1] == ["--gpu"]:
        # Its own conftest alone: the suite's hides every GPU
        gpu = [sys.executable, "-m", "pytest", "tests/gpu", "--confcutdir=tests/gpu"]
        return subprocess.run([*gpu, *arguments[1:]], cwd=ROOT, env=ENVIRONMENT).returncode
    newest = arguments[:1] == ["--newest"]
    failed = check_everything(newest, arguments[newest:])
    return f"failed: {', '.join(failed)}" if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
