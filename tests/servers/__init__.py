"""Real servers for the tests and benchmarks, on loopback and without containers.

Nothing here needs pytest but `fixtures`: `etcd.Etcd`, `controlplane.ControlPlane` and
`nodeagent.NodeAgent` are context managers, and what they start dies with the process that did.
"""
