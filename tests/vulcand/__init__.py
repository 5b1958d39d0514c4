"""What vulcand 0.9.2 does with what is written into its etcd: facts that the target relies on."""
