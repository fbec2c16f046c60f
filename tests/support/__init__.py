"""What tests share: tiny networks and batches, toy recipes and runs, and programs that tests start."""
