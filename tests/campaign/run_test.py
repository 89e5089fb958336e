"""What `run` says to wrong arguments, and that it ends when it is asked to, with all that it began."""
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

RUN = pathlib.Path(__file__).resolve().parent / "run"
BIN = "build/bin"


def begun_in(folder):
    """Processes whose command names the folder."""
    found = []
    for cmdline in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if folder in cmdline.read_bytes().decode(errors="replace"):
                found.append(int(cmdline.parent.name))
        except OSError:
            pass
    return found


class Run(unittest.TestCase):
    def test_wrong_arguments_are_one_line(self):
        for wrong in (["--minutes", "0"], ["--minutes", "-1"], ["--minutes", "nan"], ["--clients", "0"],
                      ["--patience", "-1"], ["--sim-seeds", "-1"], ["--bin", "/nonexistent"]):
            with self.subTest(wrong):
                r = subprocess.run([RUN, "--bin", BIN, *wrong], capture_output=True, text=True, timeout=60)
                self.assertEqual((r.returncode, r.stdout, r.stderr.count("\n")), (2, "", 1), r.stderr)
                self.assertIn(wrong[0], r.stderr)

    def test_it_ends_when_it_is_asked_to(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(number), tempfile.TemporaryDirectory() as folder:
                env = {**os.environ, "TMPDIR": folder}
                run = subprocess.Popen([RUN, "--bin", BIN, "--sim-seeds", "0", "--report", f"{folder}/report"],
                                       env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                try:
                    end = time.monotonic() + 120  # until it is at work
                    while not pathlib.Path(folder, "report", "reference.json").exists():
                        self.assertIsNone(run.poll())
                        self.assertLess(time.monotonic(), end)
                        time.sleep(0.1)
                    run.send_signal(number)
                    said = run.communicate(timeout=60)[0]
                    self.assertEqual(run.returncode, 1, said)
                    self.assertIn("stopped", said)
                    self.assertEqual(begun_in(folder), [])
                    self.assertEqual(list(pathlib.Path(folder).glob("limpet-campaign-*")), [])
                finally:
                    run.kill()


if __name__ == "__main__":
    BIN = sys.argv.pop(1)
    unittest.main(verbosity=2)
