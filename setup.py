"""Old habits: map the common ``python setup.py ...`` commands to pip and build. The build itself is in meson.build."""

import subprocess
import sys

COMMANDS = {
    "install": ["pip", "install", "."],
    "develop": ["pip", "install", "--no-build-isolation", "-e", "."],
    "build_ext": ["pip", "install", "--no-build-isolation", "-e", "."],
    "bdist_wheel": ["build", "--wheel"],
    "sdist": ["build", "--sdist"],
}

if __name__ == "__main__":
    command = COMMANDS.get(sys.argv[1] if len(sys.argv) > 1 else "")
    if command is None:
        sys.exit(f"usage: python setup.py {'|'.join(COMMANDS)}   (or: pip install .)")
    sys.exit(subprocess.call([sys.executable, "-m", *command]))
