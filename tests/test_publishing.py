"""What the registry's scanner and the installers object to, in the archive of a publish."""

import ast
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path, PurePosixPath

import pytest
from PIL import Image

from tools.checks.run_tests import PYTHONS

ROOT = Path(__file__).resolve().parents[1]
IGNORED = [
    line.strip()
    for line in (ROOT / ".comfyignore").read_text("utf-8").splitlines()
    if line.strip() and not line.startswith("#")
]
SCANNED = {".py", ".js", ".md", ".json", ".toml", ".txt"}
# Tokenizers' JSON holds words, not code
WEIGHTS = ("laser_core/demo_model/",)

TRIPWIRES = {
    "the environment": r"\bos\.(environ|getenv)\b",
    "an import by name": r"importlib\.import_module|\b__import__\(",
    "eval(": r"\beval\(|\bbuiltins\.",  # a model's own too: scanners look no closer
    "exec(": r"(?<![\w.])exec\(",
    "a process": r"\bsubprocess\b|os\.(system|popen|exec\w*|p?spawn\w*)\("
    r"|from os import .*\b(system|popen|exec\w*)\b",
    ".connect(": r"\.connect\(",
    ".send(": r"\.send\(",
    "a request": r"\burllib\.request\b|\burlopen\(|\brequests\.[a-z]+\("
    r"|\b(import|from) (requests|httpx|aiohttp|urllib3|socket|http)\b",
    "a pickle": r"\b(import|from) (c?[pP]ickle|dill|joblib|shelve|marshal)\b|\bpickle\.\w+\("
    r"|torch\.load\(|(allow_pickle|trust_remote_code)\s*=\s*True|weights_only\s*=\s*False",
    "a raw download address": (
        r"https?://(raw\.githubusercontent|\S+/raw/|\S+/resolve/)"
        r"|https?://\S+\.(zip|exe|whl|sh|bat|safetensors|bin|pth?|ckpt|tar|gz|7z)\b"
    ),
    "a secret": (
        r"\b(hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}"
        r"|glpat-[A-Za-z0-9_-]{20,}|npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{30,}"
        r"|sk-[A-Za-z0-9_-]{20,}|xox[a-z]-[A-Za-z0-9-]{10,}|AIza[A-Za-z0-9_-]{30,}|AKIA[A-Z0-9]{16}"
        r"|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,})"
        r"|-----BEGIN [A-Z ]*PRIVATE KEY"
        r"|(?i:(api_?key|access_?key|password|passwd|secret))[\"']?\s*[=:]\s*[\"']?"
        r"[^\s\"'()\[\]{},;]{8,}"
        r"|(?i:token)[\"']?\s*[=:]\s*[\"'][A-Za-z0-9+/_-]{16,}[\"']"
    ),
    "a path of one machine": r"/(home|Users|root|tmp|work)/\w+|[A-Z]:\\Users",
}


@cache
def archive() -> dict[str, bytes]:
    """The archive that a publish packs, built and read: git's files without .comfyignore's.

    Files that git does not know yet count too; a copy without git is packed whole.
    """
    if shutil.which("git") and (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
        names = listed.decode().split("\0")
    else:
        names = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*")]
        names = [name for name in names if "__pycache__" not in name]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name in sorted(set(names)):
            ignored = any(
                name == entry or (entry.endswith("/") and name.startswith(entry))
                for entry in IGNORED
            )
            if (ROOT / name).is_file() and not ignored:
                file.write(ROOT / name, name)
    with zipfile.ZipFile(packed) as file:
        return {name: file.read(name) for name in file.namelist()}


def scanned(*suffixes: str) -> dict[str, str]:
    """Those of its files that the scanner reads, or those of some suffixes."""
    return {
        name: content.decode("utf-8")
        for name, content in archive().items()
        if PurePosixPath(name).suffix in (suffixes or SCANNED) and not name.startswith(WEIGHTS)
    }


@pytest.mark.parametrize("name", TRIPWIRES)
def test_no_packed_file_trips_the_scanner(name):
    tripped = [
        f"{file}:{number}: {line.strip()[:80]}"
        for file, text in scanned().items()
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(TRIPWIRES[name], line)
    ]
    assert not tripped


def test_no_file_of_the_archive_holds_a_secret_whatever_its_kind():
    pattern = re.compile(TRIPWIRES["a secret"])
    assert not [name for name, text in archive().items() if pattern.search(text.decode("latin-1"))]


def test_the_archive_is_quick_to_download():
    assert sum(map(len, archive().values())) < 45e6  # before it is packed


def test_the_canvas_shows_text_as_text():
    """A model may answer `<img src=x onerror=...>`: no script of ours makes that an element."""
    as_markup = r"\b(innerHTML|outerHTML|insertAdjacentHTML|setHTMLUnsafe)\b|document\.write\("
    as_markup += r"|createContextualFragment|DOMParser|v-html"
    scripts = scanned(".js", ".mjs", ".html", ".vue")
    assert "web/laser.js" in scripts
    assert not [name for name, text in scripts.items() if re.search(as_markup, text)]


PACKAGES = {
    "PIL": "pillow",
    "lmms_eval": "lmms-eval",
    "flash_attn": "flash-attn",
    "tree_sitter": "tree-sitter",
    "tree_sitter_powershell": "tree-sitter-powershell",
}
OWN = {"laser_core", "nodes", "tests", "tools"}
COMFYUI = {"comfy", "comfy_api", "execution", "folder_paths", "nodes", "server"}


def imported() -> set[str]:
    """Packages that any file imports, anywhere in it."""
    found = set()
    for path in [path for name in OWN for path in (ROOT / name).rglob("*.py")]:
        for line in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(line, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in line.names}
            elif isinstance(line, ast.ImportFrom) and not line.level:
                found.add(line.module.partition(".")[0])
    return {
        PACKAGES.get(n, n) for n in found - sys.stdlib_module_names - OWN - COMFYUI - {"tomllib"}
    }


def test_every_dependency_and_its_licence_is_listed():
    text = (ROOT / "THIRD_PARTY.md").read_text("utf-8")
    needed = set(re.findall(r"^\| ([\w-]+) \| .+ \| \S.* \|$", text, re.M)) - {"Package"}
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    assert needed == {re.match(r"[\w-]+", line)[0] for line in lines} | {"torch"}
    extras = re.search(
        r"^\[project.optional-dependencies\]$(.*?)^$",
        (ROOT / "pyproject.toml").read_text(),
        re.M | re.S,
    )[1]
    web = json.loads((ROOT / "tests" / "web" / "package.json").read_text("utf-8"))
    used = {*re.findall(r'"([\w-]+)>=', extras), *web["devDependencies"], *imported()}
    assert {"ruff", "lmms-eval", "loguru", "tqdm", "jsdom", "playwright"} <= used
    assert used <= needed | set(re.findall(r"([\w@/-]+)\s\([A-Z][^)]+\)", text))


def test_pack_itself_is_packed_and_its_checks_are_not():
    names = set(archive())
    assert {"__init__.py", "pyproject.toml", "requirements.txt", "README.md"} <= names
    assert {"prestartup_script.py", "laser_core/demo_model/model.safetensors"} <= names
    assert any(name.startswith("workflows/") for name in names)
    checks = "tests/", "tools/", ".ci/", ".github/", ".pre-commit", ".venv", "run-tests"
    assert not any(name.startswith(checks) for name in names)


@pytest.mark.parametrize("script", ["run-demo", "run-demo.ps1"])
def test_the_demo_script_is_packed_with_every_file_that_it_names(script):
    text = (ROOT / script).read_text("utf-8").replace("\\", "/")
    named = set(re.findall(r"\b(?:environments|pictures)/[\w.-]+", text))
    assert len(named) == 3
    assert named | {script} <= set(archive())


TRIPS = {
    "the environment": ["os.environ.get('X')", "os.environ['X']", "os.getenv('X')"],
    "an import by name": ["importlib.import_module(x)", "__import__('os').system('x')"],
    "eval(": ["x = eval(text)", "builtins.eval(x)", "model.eval()"],
    "exec(": ["exec(text)", "compile(s, 'x', 'exec'); exec(s)"],
    "a process": ["import subprocess", "os.system('x')", "os.execv(x)", "from os import system"],
    ".connect(": ["socket.connect(a)"],
    ".send(": ["socket.send(a)"],
    "a request": ["urllib.request.urlopen(u)", "requests.get(u)", "from http import client"],
    "a pickle": [
        "import pickle", "pickle.Unpickler(f).load()", "numpy.load(f, allow_pickle=True)",
        "torch.load(f)", "trust_remote_code=True",
    ],
    "a raw download address": ["see https://example.org/model.safetensors"],
    "a secret": [
        "token = 'x'; key = hf_" + "a" * 30,
        "ghp_" + "a" * 36,
        "github_pat_" + "A" * 22 + "_" + "b" * 59,
        "sk-" + "a" * 40,
        "sk-proj-" + "a" * 20 + "-" + "b" * 30,
        "sk-ant-api03-" + "a" * 60,
        "xoxb-123456789012-123456789012-" + "a" * 24,
        "AIza" + "A" * 35,
        "AKIA" + "A" * 16,
        "glpat-" + "a" * 20,
        "npm_" + "a" * 36,
        "pypi-AgEIcHlwaS5vcmc" + "a" * 60,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdefghijk",
        "AWS_SECRET_ACCESS_KEY=" + "wJalrXUtnFEMI/K7MDENG/bPxRfiCY",
        'token: "0123456789abcdef0123"',
        "password=hunter2hunter2",
        '{"api_key": "0123456789"}',
        "-----BEGIN PGP PRIVATE KEY BLOCK-----",
    ],
    "a path of one machine": ["/home/me/x", "C:\\Users"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "text"), [(n, text) for n in TRIPWIRES for text in TRIPS[n]])
def test_tripwires_trip(name, text):
    assert re.search(TRIPWIRES[name], text)


def test_every_python_that_is_promised_is_tried():
    promised = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text("utf-8"))
    assert list(PYTHONS) == promised


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("nodes/widgets.py", None, "nodes import"),
        ("tests/x.py", "match x:\n  case = 1", "SyntaxError"),
        ("tools/x.py", "a = '\\d'", "invalid escape sequence"),
        ("nodes/views.py", "raise ImportError('of a library')", "ImportError: of a library"),
    ],
)
def test_a_python_that_cannot_read_or_import_the_pack_is_told(tmp_path, file, text, said):
    for name, content in archive().items():
        if name.endswith(".py"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
    (tmp_path / "tools" / "checks").mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tools" / "checks" / "check_python.py", tmp_path / "tools" / "checks")
    if text:
        (tmp_path / file).write_text(text)
    command = [sys.executable, tmp_path / "tools" / "checks" / "check_python.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert said in done.stdout + done.stderr
    assert (done.returncode != 0) == bool(text)


def test_requirements_hold_nothing_that_breaks_an_installation():
    """torch is the user's own build; the Manager reads this file line by line."""
    for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines():
        name = re.match(r"[\w-]*", line)[0].lower()
        assert name, line  # no -r, no -e, no address
        assert name not in ("torch", "torchvision", "torchaudio", "xformers", "flash-attn")
        assert not re.search(r"git\+|://|\.whl|--", line)
        assert re.fullmatch(r"[\w-]+(>=[\d.]+)?", line)  # no "@", no path: uv refuses them
        assert not (name == "numpy" and "<" in line)


def project() -> str:
    return (ROOT / "pyproject.toml").read_text("utf-8")


def value_of(name: str) -> str:
    return re.search(rf'^{name} = "(.*)"$', project(), re.M)[1]


@pytest.mark.parametrize(("owner", "refused"), [("OWNER", True), ("somebody", False)])
def test_nothing_is_published_before_the_repository_is_named(tmp_path, owner, refused):
    """The registry requires the address, and takes any."""
    assert value_of("Repository") == "https://github.com/OWNER/laser-lvlm"
    steps = (ROOT / ".github" / "workflows" / "publish.yml").read_text("utf-8")
    step, publishing = steps.index("grep -n OWNER/"), steps.index("publish-node-action")
    command = re.search(r'run: "(.*OWNER.*)"', steps)[1]
    (tmp_path / "pyproject.toml").write_text(project().replace("OWNER", owner))
    if (bash := shutil.which("bash")) is None:
        pytest.skip("needs bash, as the workflow does")
    done = subprocess.run([bash, "-ec", f"{command}\n"], cwd=tmp_path, capture_output=True)
    assert (done.returncode != 0) == refused
    assert step < publishing


def test_the_registrys_pictures_have_the_sizes_it_asks_for_and_are_packed():
    addresses = [value_of("Icon"), value_of("Banner")]
    names = [re.search(r"/blob/main/([\w/.]+)\?raw=true$", address)[1] for address in addresses]
    icon, banner = (Image.open(io.BytesIO(archive()[name])) for name in names)
    assert icon.width == icon.height <= 400
    assert banner.width * 9 == banner.height * 21
    assert all(len(archive()[name]) < 300_000 for name in names)


def test_the_oldest_comfyui_that_is_promised_is_one_it_is_tested_with():
    oldest = value_of("requires-comfyui").removeprefix(">=")
    tested = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    assert f"It is tested with ComfyUI {oldest} " in tested
