"""A network of our own for the campaign: one namespace for each machine, and links that can be cut.

The program starts itself anew inside namespaces (mounts, network, processes), which end with it:
nothing of them is seen outside, and no address outside is used. Where that is not allowed, or `ip`
is missing, it runs on loopback without them and says which faults cannot be had.
"""
import ctypes
import os
import pathlib
import shutil
import signal
import subprocess
import sys

INSIDE = "LIMPET_CAMPAIGN_INSIDE"
# 198.18.0.0/15 is set aside for measurements: RFC 2544.
ADDRESS = "198.18.%d.%d"


def isolate():
    """Goes on inside namespaces, in another process, if that can be; else says why not."""
    if os.environ.get(INSIDE):
        return "" if os.environ[INSIDE] == "yes" else os.environ[INSIDE]
    flags = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
             "--propagation", "private"]
    if os.geteuid() != 0:
        flags.append("--map-root-user")
    why = ""
    if not shutil.which("ip") or not shutil.which("unshare"):
        why = "there is no `ip` or no `unshare` here (iproute2, util-linux)"
    else:
        probe = subprocess.run(["unshare", *flags, "sh", "-c", "mount -t tmpfs none /run && ip link set lo up"
                                " && ip netns add probe && ip link add near type veth peer name far netns probe"
                                " && nsenter --net=/run/netns/probe -- true"], capture_output=True, text=True)
        if probe.returncode != 0:
            why = "namespaces are not allowed here: " + " ".join(probe.stderr.split())[:200]
    os.environ[INSIDE] = why or "yes"
    if why:
        return why
    sys.stdout.flush()
    sys.exit(run_inside(["unshare", *flags, sys.executable, *sys.argv]))


STOPPING = 15  # seconds


def run_inside(argv):
    """The exit status of the program inside. unshare lets no signal end it, and a process namespace's
    first process gets only those that it has asked for: so they are passed on to that one."""
    prctl, pdeathsig = ctypes.CDLL(None).prctl, 1
    inside = subprocess.Popen(argv, preexec_fn=lambda: prctl(pdeathsig, signal.SIGKILL))

    def stop(number, _):
        for pid in children_of(inside.pid):
            os.kill(pid, signal.SIGTERM)
        signal.alarm(STOPPING)

    def give_up(number, _):
        inside.kill()  # and with it all that is inside
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGALRM, give_up)
    status = inside.wait()
    return status if status >= 0 else 1


def children_of(parent):
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(after_name[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def kill_children():
    for pid in children_of(os.getpid()):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def ip(*args, node=None):
    subprocess.run(["ip", *(["-n", node] if node else []), *map(str, args)], check=True,
                   capture_output=True, text=True)


class Network:
    """The broker's machine in the middle, a link to each worker's, and one to the clients', ours."""

    def __init__(self, workers, missing):
        self.missing = missing  # why there are no namespaces; empty: there are
        self.links, self.shaper = {}, ""
        if missing:
            return
        subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
        ip("link", "set", "lo", "up")
        ip("netns", "add", "broker")
        ip("link", "set", "lo", "up", node="broker")
        for i, node in enumerate(["clients", *workers]):
            self._link(i, node)
        self.shaper = self._shaper()

    def _link(self, i, node):
        at = None if node == "clients" else node
        if at:
            ip("netns", "add", node)
            ip("link", "set", "lo", "up", node=node)
        near, far = f"to-{i}", f"from-{i}"
        ip("link", "add", near, "netns", "broker", "type", "veth", "peer", "name", far, *(["netns", node] if at else []))
        ip("addr", "add", ADDRESS % (i, 1) + "/30", "dev", near, node="broker")
        ip("addr", "add", ADDRESS % (i, 2) + "/30", "dev", far, node=at)
        self.links[node] = (i, near, far, at)
        self.heal(node)

    def _shaper(self):
        """How a link can be slowed; empty: it cannot."""
        for kind in ("netem", "tbf"):
            try:
                self._qdisc("clients", kind, 1000)
                self.heal("clients")
                return kind
            except (subprocess.CalledProcessError, OSError):
                continue
        return ""

    def _qdisc(self, node, kind, kbit):
        _, near, far, at = self.links[node]
        how = (["netem", "delay", "40ms", "20ms", "rate", f"{kbit}kbit"] if kind == "netem" else
               ["tbf", "rate", f"{kbit}kbit", "burst", "4kb", "latency", "400ms"])
        for dev, where in ((near, "broker"), (far, at)):
            prefix = ["tc", *(["-n", where] if where else [])]
            subprocess.run([*prefix, "qdisc", "replace", "dev", dev, "root", *how], check=True, capture_output=True)

    def inside(self, node):
        """What a command is begun with to run on that machine."""
        return [] if self.missing or node == "clients" else ["nsenter", f"--net=/run/netns/{node}", "--"]

    def broker_from(self, node):
        return "127.0.0.1" if self.missing else ADDRESS % (self.links[node][0], 1)

    def cut(self, node):
        _, near, _, _ = self.links[node]
        ip("link", "set", near, "down", node="broker")

    def cut_one_way(self, node):
        """What the broker says does not reach it; what it says reaches the broker."""
        ip("route", "replace", "blackhole", ADDRESS % (self.links[node][0], 2) + "/32", node="broker")

    def slow(self, node, kbit):
        self._qdisc(node, self.shaper, kbit)

    def heal(self, node):
        i, near, far, at = self.links[node]
        ip("link", "set", near, "up", node="broker")
        ip("link", "set", far, "up", node=at)
        subprocess.run(["ip", "-n", "broker", "route", "del", "blackhole", ADDRESS % (i, 2) + "/32"], capture_output=True)
        for dev, where in ((near, "broker"), (far, at)):
            if shutil.which("tc"):
                subprocess.run(["tc", *(["-n", where] if where else []), "qdisc", "del", "dev", dev, "root"],
                               capture_output=True)
