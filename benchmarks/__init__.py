"""How quick the daemon is, against what the same machine can do at best: `make bench`.

Everything runs for real on loopback: a Kubernetes control plane, an etcd, HAProxy, pods that are
HTTP servers. Each figure of ours stands beside a floor: what a bare client of the same servers
sees of the same events, at the same time. Compare the ratios; the milliseconds are this machine's.
"""
