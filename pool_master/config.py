"""The master's configuration."""
