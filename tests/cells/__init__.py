"""What needs MindSpore in the test process itself; run as a pytest process of its own."""
