"""The pages: their examples run as they stand, and commands, files and links that they name are there."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from helpers import import_or_skip

import ksubspaces
from bench import COMPARISONS
from bench.__main__ import COMMANDS
from ksubspaces.cli import _parser
from ksubspaces.demo import minilm_folder

ROOT = Path(__file__).parent.parent
FOLDERS = ("solver", "kernels", "tests", "bench")
PAGES = [*sorted(ROOT.glob("*.md")), *(page for folder in FOLDERS for page in sorted((ROOT / folder).glob("*.md")))]
BLOCKS = [
    pytest.param(page, block, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL))
]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def has_card():
    try:
        import cupy

        return cupy.cuda.is_available()
    except ImportError:
        return False


def prose(page):
    """A page without its blocks of Python."""
    return re.sub(r"```python\n.*?```", "", page.read_text(), flags=re.DOTALL)


def commands(page):
    """Indented lines, and code within a line that is more than one word."""
    text = prose(page)
    return [*re.findall(r"^    (\S.*)$", text, flags=re.MULTILINE), *re.findall(r"`([^`\n]+ [^`\n]+)`", text)]


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_example(page, block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if "minilm_folder" in block:
        import_or_skip("transformers")
        try:
            minilm_folder()
        except RuntimeError as error:
            pytest.skip(str(error))  # it says what to install
    code = compile(block, page.name, "exec")
    if 'device="cuda"' in block and not has_card():
        with pytest.raises((ImportError, RuntimeError), match=r"CUDA.*(pip install|device)"):
            exec(code, {})
        return
    exec(code, {})
    printed = capsys.readouterr().out
    assert printed
    if "cosine" in printed:
        assert float(printed.split()[-1]) >= 0.99


def test_the_readme_is_a_front_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    for folder in FOLDERS:
        assert len((ROOT / folder / "README.md").read_text().splitlines()) <= 95, folder


@pages
def test_commands_of_ours_are_known_to_the_command_line(page):
    parser = _parser()
    for line in commands(page):
        if line.startswith("ksubspaces "):
            words = shlex.split(line, comments=True)[1:]
            try:  # a command by its name alone is no call of it
                parser.parse_args(words if len(words) > 1 else [*words, "--help"])
            except SystemExit as end:
                if end.code:
                    pytest.fail(f"the command line does not take: {line}")


@pages
def test_targets_of_make_modules_and_extras_are_there(page):
    makefile, project = (ROOT / "Makefile").read_text(), (ROOT / "pyproject.toml").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "bench").rglob("*.py"))
    for line in commands(page):
        words = shlex.split(line, comments=True) if re.match(r"make |python -m |\S*pip install", line) else []
        if words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", makefile, flags=re.MULTILINE), line
        elif words[1:2] == ["-m"] and words[2].startswith("bench"):
            named = [word for word in words[3:] if re.fullmatch(r"[a-z]+(-[a-z]+)*", word)]
            assert words[2] == "bench" and {*named} <= {*COMPARISONS, *COMMANDS}, line
            for option in re.findall(r"--\w[\w-]*", line):
                assert f'"{option}"' in sources, line
        for extra in re.findall(r"\.\[([\w,]+)\]", line):
            for name in extra.split(","):
                assert re.search(rf"^{name} = \[", project, flags=re.MULTILINE), line


@pages
def test_files_that_it_names_are_there(page):
    text = prose(page)
    code = " ".join([*re.findall(r"`([^`\n]+)`", text), *re.findall(r"^    \S.*$", text, flags=re.MULTILINE)])
    named = re.findall(
        r"(?<![\w./<>-])((?:\.\./)*[\w.*/-]*[\w*]\.(?:py|cu|cuh|md)|(?:bench|solver|kernels|tests)/[\w.*/-]+)(?![\w<])",
        code,
    )
    recorded = re.findall(r"`([\w-]+\.json)`", text)
    for name in [*named, *(f"bench/results/{file}" for file in recorded)]:
        assert any(found(name, folder) for folder in (page.parent, ROOT)), f"{page.name} names {name}"


def found(name, folder):
    """Whether a path, perhaps with stars, is in a folder; a bare name may be further down."""
    if "*" in name or "/" not in name:
        return any(folder.rglob(name)) if folder != ROOT else any(ROOT.glob(name))
    return (folder / name).exists()


def slug(heading):
    """The anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pages
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(there), flags=re.MULTILINE)
            assert anchor in map(slug, headings), f"{page.name} links to {target}"


@pages
def test_another_page_leads_to_it(page):
    links = [
        (other.parent / target.partition("#")[0]).resolve()
        for other in PAGES
        for target in re.findall(r"\]\(([^)]+)\)", prose(other))
        if other != page
    ]
    assert page.name == "README.md" or page.resolve() in links


# --- what the pages say of the code ---


def imported_by(path):
    """Modules of the package that a module imports when it is imported itself, by their names within the package."""
    package = "ksubspaces"
    for folder in (*path.relative_to(ROOT).parent.parts,):
        package += "" if folder == "solver" else f".{folder}"
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("ksubspaces.") for alias in node.names if "ksubspaces." in alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module == "ksubspaces":
                yield from (alias.name for alias in node.names)
            elif module.startswith("ksubspaces."):
                yield module.removeprefix("ksubspaces.")


def test_modules_import_from_their_own_floor_and_those_below():
    """As the page of solver/ draws them. What is imported within a function, or for types alone, does not count."""
    text = (ROOT / "solver" / "README.md").read_text()
    picture = re.search(r"Modules by floor\..*?\n\n((?:    .+\n)+)", text).group(1)
    floors = [line.split() for line in reversed(picture.splitlines())]
    height = {name: floor for floor, names in enumerate(floors) for name in names}
    for path in sorted((ROOT / "solver").rglob("*.py")):
        name = path.relative_to(ROOT / "solver").parts[0].removesuffix(".py")
        assert name in height or name.startswith("_"), f"solver/README.md has no floor for {name}"
        for module in imported_by(path):
            other = module.partition(".")[0]
            if name in height and other in height:
                assert height[other] <= height[name], f"{path.relative_to(ROOT)} imports {module} from above"
    assert all(any((ROOT / "solver").glob(f"{name}*")) for name in height)


def test_kernels_import_nothing_of_the_solver():
    for path in (ROOT / "kernels").rglob("*.py"):
        assert all(module.partition(".")[0] == "kernels" for module in imported_by(path)), path


def test_kernels_add_nothing_up_in_an_order_of_chance():
    """But for whole numbers, which add up to the same in any order."""
    for path in (ROOT / "kernels").rglob("*"):
        if path.suffix in (".py", ".cu", ".cuh"):
            text = path.read_text()
            assert not re.search(r"atomic\.add", text), path
            for counter in re.findall(r"atomicAdd\(\W*(\w+)", text):  # whole numbers are the same in any order
                assert re.search(rf"\b(int|unsigned|unsigned long long)(\*|\* __restrict__|) {counter}\b", text), (
                    f"{path}: {counter}"
                )


def test_no_file_is_long():
    for folder in ("solver", "kernels"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".cu", ".cuh", ".css"):
                assert len(path.read_text().splitlines()) <= 400, path


def test_hooks_run_the_lint_of_make():
    yaml = import_or_skip("yaml", install="pyyaml")
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = [hook["entry"] for hook in local["hooks"]]
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE).group(1)
    assert hooks == [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]
    assert local["repo"] == "local"
    assert all(hook["language"] == "system" for hook in local["hooks"])


def test_the_changelog_has_this_version():
    assert f"## [{ksubspaces.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
