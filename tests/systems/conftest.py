"""What lies here are systems of their own, which tests build and run; their own tests are run by plain python."""

collect_ignore_glob = ["*"]
