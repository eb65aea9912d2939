"""A real Triton server on this machine, from the files that nvidia-pytriton brings; for tests and benchmarks.

`python tests/tritonserver.py DIRECTORY` installs it there, in a virtual environment of its own (`make test` does so). Where
it cannot be had, the reason is left in the directory, and tests that need it are skipped with it.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent
HOME = Path(os.environ.get("PRUNE2DEPLOY_TRITON", ROOT / ".triton"))
REASON_FILE = "why-not.txt"
PYTRITON = "nvidia-pytriton==0.7.0"  # tritonserver 2.51
# what our python models need; numpy 2 came after the server's python backend
PACKAGES = ("onnxruntime", "openvino", "tokenizers", "pillow", "numpy<2")
READY_SECONDS = 60


def install(directory):
    """Install the server in `directory`; leaves a reason there, and no server, where that cannot be."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    version = f"3.{sys.version_info.minor}"
    try:
        ctypes.CDLL(f"libpython{version}.so.1.0")  # the python backend loads it
        constraints = directory / "constraints.txt"
        lines = (ROOT / "constraints.txt").read_text().splitlines(keepends=True)
        constraints.write_text("".join(line for line in lines if not line.startswith("numpy==")))
        python = directory / "venv" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", directory / "venv"], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--retries", "1", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", PYTRITON], check=True)
        subprocess.run([*pip, "--constraint", constraints, *PACKAGES], check=True)
        files = site_packages(directory) / "pytriton" / "tritonserver"
        backend = directory / "backends" / "python"
        shutil.copytree(files / "backends" / "python", backend)
        shutil.copy(files / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
        for program in (backend / "triton_python_backend_stub", files / "bin" / "tritonserver"):
            program.chmod(0o755)
    except (OSError, subprocess.CalledProcessError) as error:
        (directory / REASON_FILE).write_text(f"no Triton server here: {error}".splitlines()[0])
        print(f"tests of a real Triton server will be skipped: {error}", file=sys.stderr)


def site_packages(directory):
    """Where the packages of the server's environment are."""
    return next((directory / "venv" / "lib").glob("python3.*")) / "site-packages"


def why_not():
    """Why there is no server; None where there is one."""
    if not HOME.is_dir():
        return f"no Triton server in {HOME}: `make test` installs it"
    reason = HOME / REASON_FILE
    return reason.read_text() if reason.is_file() else None


def free_ports(count):
    """Ports that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Server:
    """A running server on `repository`; a context manager. `url`, `grpc_url`: as `Client` takes them."""

    def __init__(self, repository, *options, log=None):
        self.repository, self.options = repository, options
        self.log = log or Path(repository).parent / "tritonserver.log"

    def __enter__(self):
        packages = site_packages(HOME)
        files = packages / "pytriton" / "tritonserver"
        http, grpc, metrics = free_ports(3)
        self.url, self.grpc_url = f"127.0.0.1:{http}", f"grpc://127.0.0.1:{grpc}"
        environment = {
            **os.environ, "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"), "PYTHONPATH": str(packages),
            "PATH": f"{HOME / 'venv' / 'bin'}:{os.environ['PATH']}",
        }  # fmt: skip
        with Path(self.log).open("w") as stream:
            self.process = subprocess.Popen(
                [files / "bin" / "tritonserver", f"--model-repository={self.repository}",
                 f"--backend-directory={HOME / 'backends'}", f"--cache-directory={files / 'caches'}",
                 "--http-address=127.0.0.1", f"--http-port={http}", "--grpc-address=127.0.0.1", f"--grpc-port={grpc}",
                 f"--metrics-port={metrics}", "--metrics-address=127.0.0.1", *self.options],
                stdout=stream, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            )  # fmt: skip
        self.wait()
        return self

    def wait(self):
        """Wait until every model is ready."""
        until = time.monotonic() + READY_SECONDS
        while time.monotonic() < until and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://{self.url}/v2/health/ready", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        self.__exit__(None, None, None)
        raise RuntimeError(f"the server did not come up:\n{self.said()}")

    def said(self):
        """The server's log."""
        return Path(self.log).read_text(errors="replace")

    def alive(self):
        """Whether the server still runs."""
        return self.process.poll() is None

    def kill(self):
        """End it at once, as a crash would."""
        os.killpg(self.process.pid, signal.SIGKILL)

    def __exit__(self, *error):
        if self.alive():
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


if __name__ == "__main__":
    install(Path(sys.argv[1]).absolute())
