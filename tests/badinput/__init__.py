"""Bad input, as a user of the whole program meets it: each case one clear message with its place
and what to do, nothing half-written, others' traffic and the last good of this one going on.

| case | where |
|---|---|
| settings: several errors at once, unknown keys, TOML, environment, paths | `test_settings.py` |
| app config: bad JSON, wrong types, 1 MB, hosts with spaces or newlines | `test_appconfig.py` |
| regexes that explode, on a real HAProxy | `test_regexes.py` |
| two apps claiming one route | `test_routes.py`, `tests/test_claims.py` |
| names that would escape a key, a file or a directive | `test_names.py`, `tests/hostile/` |
| unparsable activation, weights negative, all zero, no numbers | `test_activation.py` |
| pod without IP, ports, containers; a port name that nobody has | `test_pods.py` |
| template: syntax, undefined name, endless loop, missing include, memory | `test_templates.py` |
| HAProxy missing, its socket missing, mute, refusing, talking nonsense | `test_proxy.py` |
| disk full, directories not writable, log to a full device | `test_disk.py` |
| certificate, CA, key, kubeconfig, token, exec plugin | `test_credentials.py` |

The messages stand in `golden/`, to be read in one go.
"""
