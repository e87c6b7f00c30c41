"""What the registry's scanner and the installers object to, in the files that are packed."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
IGNORED = [
    line.strip()
    for line in (ROOT / ".comfyignore").read_text("utf-8").splitlines()
    if line.strip() and not line.startswith("#")
]
SCANNED = {".py", ".js", ".md", ".json", ".toml", ".txt"}
# Tokenizers' JSON holds words, not code
WEIGHTS = (ROOT / "laser_core/demo_model", ROOT / "laser_core/demo_model_qwen")

TRIPWIRES = {
    "os.environ.get(": r"os\.environ\.get\(",
    "importlib.import_module": r"importlib\.import_module",
    "eval(": r"(?<![\w.])eval\(",
    "exec(": r"(?<![\w.])exec\(",
    "subprocess": r"\bsubprocess\b",
    "os.system": r"os\.(system|popen|exec\w*)\(",
    ".connect(": r"\.connect\(",
    ".send(": r"\.send\(",
    "pickle": r"\bpickle\.loads?\(|torch\.load\(",
    "trust_remote_code": r"trust_remote_code\s*=\s*True",
    "a raw download address": (
        r"https?://(raw\.githubusercontent|\S+/raw/|\S+/resolve/)"
        r"|https?://\S+\.(zip|exe|whl|sh|bat|safetensors|bin|pth?|ckpt|tar|gz|7z)\b"
    ),
    "a secret": (
        r"\b(hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16}|sk-[A-Za-z0-9]{20,})"
        r"|-----BEGIN [A-Z ]*PRIVATE KEY"
        r"|(?i:(api_?key|password|secret))\s*=\s*[\"'][^\"']{8,}"
    ),
    "a path of one machine": r"/(home|Users|root|tmp|work)/\w+|[A-Z]:\\Users",
}


def archive() -> list[Path]:
    """Files that a publish would pack."""
    found = []
    for path in sorted(ROOT.rglob("*")):
        name = path.relative_to(ROOT).as_posix()
        hidden = any(part.startswith((".", "__pycache__")) for part in name.split("/"))
        ignored = any(
            name == entry or (entry.endswith("/") and name.startswith(entry)) for entry in IGNORED
        )
        if path.is_file() and not hidden and not ignored:
            found.append(path)
    return found


def packed() -> list[Path]:
    """Those of them that the scanner reads."""
    return [
        path
        for path in archive()
        if path.suffix in SCANNED and path.parent not in WEIGHTS
    ]


@pytest.mark.parametrize("name", TRIPWIRES)
def test_no_packed_file_trips_the_scanner(name):
    tripped = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in packed()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if re.search(TRIPWIRES[name], line)
    ]
    assert not tripped


def test_no_file_of_the_archive_holds_a_secret_whatever_its_kind():
    pattern = re.compile(TRIPWIRES["a secret"])
    assert not [
        path.relative_to(ROOT).as_posix()
        for path in archive()
        if pattern.search(path.read_bytes().decode("latin-1"))
    ]


def test_the_canvas_shows_text_as_text():
    """A model may answer `<img src=x onerror=...>`: no script of ours makes that an element."""
    as_markup = r"\b(innerHTML|outerHTML|insertAdjacentHTML|setHTMLUnsafe)\b|document\.write\("
    as_markup += r"|createContextualFragment|DOMParser|v-html"
    scripts = [path for path in archive() if path.suffix in (".js", ".mjs", ".html", ".vue")]
    assert not [path.name for path in scripts if re.search(as_markup, path.read_text("utf-8"))]


def test_every_dependency_and_its_licence_is_listed():
    listed = dict(
        re.findall(r"^\| ([\w-]+) \| .+ \| (\S.*) \|$", (ROOT / "THIRD_PARTY.md").read_text(), re.M)
    )
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    names = {re.match(r"[\w-]+", line)[0] for line in lines}
    assert set(listed) - {"Package"} == names | {"torch"}


def test_pack_itself_is_packed():
    names = {path.relative_to(ROOT).as_posix() for path in packed()}
    assert {"__init__.py", "pyproject.toml", "requirements.txt", "README.md"} <= names
    assert "prestartup_script.py" in names
    assert any(name.startswith("workflows/") for name in names)


@pytest.mark.parametrize(
    "text",
    [
        "x = eval(text)",
        "import subprocess",
        "socket.connect(a)",
        "see https://example.org/model.safetensors",
        "token = 'x'; key = hf_" + "a" * 30,
    ],
)
def test_tripwires_trip(text):
    assert any(re.search(pattern, text) for pattern in TRIPWIRES.values())


def test_requirements_hold_nothing_that_breaks_an_installation():
    """torch is the user's own build; the Manager reads this file line by line."""
    for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines():
        name = re.match(r"[\w-]*", line)[0].lower()
        assert name, line  # no -r, no -e, no address
        assert name not in ("torch", "torchvision", "torchaudio", "xformers", "flash-attn")
        assert not re.search(r"git\+|://|\.whl|--", line)
        assert not (name == "numpy" and "<" in line)
