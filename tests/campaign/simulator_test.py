"""What a campaign makes of what limpet-sim says."""
import argparse
import os
import pathlib
import stat
import tempfile
import unittest

import simulator

FINE = """3000 seeds in 4.0 s (750/s), 0 violations
9 jobs: 7 finished, 1 failed, 1 stopped; 12 starts (4 resident), 90 tokens, 3 homes set
6 hand-overs, 2 came to nothing, 40 pages; 5 starts migrated
"""


class Simulator(unittest.TestCase):
    def run_fake(self, text, status, count=3000):
        """A limpet-sim that says this, once it has been asked for the right seeds."""
        with tempfile.TemporaryDirectory() as folder:
            program = pathlib.Path(folder) / "limpet-sim"
            program.write_text(f"#!/bin/sh\n[ \"$2\" = 7000000..{7000000 + count} ] || exit 9\ncat <<'END'\n{text}END\n"
                               f"echo told >&2\nexit {status}\n")
            os.chmod(program, stat.S_IRWXU)
            return simulator.run(folder, 7000000, count)

    def test_a_clean_run_gives_its_figures(self):
        out = self.run_fake(FINE, 0)
        self.assertEqual((out["violations"], out["seeds"], out["seconds"]), ([], 3000, 4.0))
        self.assertEqual((out["done"]["jobs"], out["done"]["resident"], out["done"]["hand-overs"],
                          out["done"]["starts migrated"]), (9, 4, 6, 5))

    def test_what_it_finds_is_the_campaigns(self):
        out = self.run_fake("seed 7000004: two owners\n" + FINE, 1)
        self.assertEqual(out["violations"], ["simulator: seed 7000004: two owners"])

    def test_one_that_dies_or_does_less_is_no_clean_run(self):
        for text, status, count in (("", 134, 3000), (FINE, 0, 4000), (FINE, 1, 3000)):
            out = self.run_fake(text, status, count)
            self.assertEqual(len(out["violations"]), 1, out)
            self.assertIn(f"exit status {status}", out["violations"][0])
        self.assertIn("limpet-sim", simulator.run("/nowhere", 0, 5)["violations"][0])

    def test_which_seeds(self):
        a = argparse.Namespace(seed=2, minutes=3.0, sim_seeds=None)
        self.assertEqual(simulator.seeds_of(a), (2000000, 3000))
        a.sim_seeds = 0
        self.assertEqual(simulator.run("/nowhere", *simulator.seeds_of(a))["violations"], [])


if __name__ == "__main__":
    unittest.main()
