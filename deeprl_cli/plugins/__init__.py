"""What is brought from outside the package: classes named in a configuration, and what they are asked for."""
