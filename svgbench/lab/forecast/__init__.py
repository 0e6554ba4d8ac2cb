"""What a plan needs and costs before it runs."""
