"""What people use instead, beside ours."""
