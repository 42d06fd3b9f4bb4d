"""What the operating system gives: files, locks, the machine's cores and memory."""
