"""Completion in the shells themselves: what they offer after a part of a command line."""

import os
import shutil
import subprocess
import sys

import pytest

from fastgdml.cli import main
from fastgdml.cli.completion import script

COMMANDS = {"all", "create", "train", "report", "learning-curve", "dataset", "doctor", "completion"}


def shell(name):
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"there is no {name}: apt-get install {name}")
    return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mydata.npz").write_bytes(b"")
    (tmp_path / "results").mkdir()
    return tmp_path


def bash(line, folder):
    path = shell("bash")
    (folder / "completion").write_text(script("bash"))
    words = line.split(" ")
    program = f"""
source completion
COMP_WORDS=({" ".join(f"'{word}'" for word in words)})
COMP_CWORD={len(words) - 1}
COMP_LINE='{line}'
COMP_POINT={len(line)}
function=$(complete -p fastgdml | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
"$function" fastgdml "${{COMP_WORDS[COMP_CWORD]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run([path, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    return {word.strip() for word in done.stdout.splitlines()}, done.stderr


def fish(line, folder):
    path = shell("fish")
    (folder / "completion").write_text(script("fish"))
    program = f"source completion; complete -C '{line}'"
    home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    done = subprocess.run(
        [path, "-c", program], cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, **home}
    )
    return {word.split("\t")[0] for word in done.stdout.splitlines()}, done.stderr


def zsh(line, folder):
    """What zsh offers, in a terminal of its own: its completion works in a line editor only."""
    path = shell("zsh")
    (folder / "_fastgdml").write_text(script("zsh"))
    import pty
    import select
    import time

    program = (
        "PS1=; fpath=($PWD $fpath); autoload -U compinit; compinit -u -d ./dump; LISTMAX=1000; "
        "zstyle ':completion:*' list-prompt ''; bindkey '^I' list-choices; print ready\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.environ.update(TERM="dumb", COLUMNS="200", LINES="1000", HOME=str(folder))
        os.execv(path, [path, "-f", "-i"])
    text = ""

    def wait(until, seconds=60.0):
        nonlocal text
        end = time.monotonic() + seconds
        quiet = 0
        while time.monotonic() < end and quiet < 3:
            if select.select([terminal], [], [], 1.0)[0]:
                try:
                    text += os.read(terminal, 65536).decode(errors="replace")
                except OSError:
                    return
                quiet = 0
            elif until in text:
                quiet += 1
        assert until in text, text

    try:
        os.write(terminal, program.encode())
        wait("\nready")
        text = ""
        os.write(terminal, line.encode() + b"\t")
        wait(line.split(" ")[0])
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
    return set(text.replace("\r", "\n").split()), ""


@pytest.mark.parametrize("complete", [bash, fish, zsh])
def test_commands_options_and_files(complete, folder):
    offered, errors = complete("fastgdml ", folder)
    assert errors == ""
    assert offered >= COMMANDS
    offered, _ = complete("fastgdml report --n_", folder)
    assert {"--n_test", "--n_worst"} <= offered
    offered, _ = complete("fastgdml dataset ", folder)
    assert {"convert", "merge", "split", "check", "label"} <= offered
    offered, _ = complete("fastgdml export --format ", folder)
    assert {"flat", "sgdml"} <= offered
    offered, _ = complete("fastgdml show my", folder)
    assert "mydata.npz" in offered


def test_scripts_are_printed(capsys):
    for name in ("bash", "zsh", "fish"):
        assert main(["completion", name]) == 0
        out = capsys.readouterr().out
        assert "learning-curve" in out
        if shutil.which(name):
            option = "--no-execute" if name == "fish" else "-n"
            done = subprocess.run([name, option], input=out, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr


def test_without_shtab_the_message_says_what_to_install(tmp_path):
    code = """
import sys
sys.modules['shtab'] = None
from fastgdml.cli import main
sys.exit(main(['completion', 'bash']))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'fastgdml[completion]'" in done.stderr
    assert done.stdout == ""
