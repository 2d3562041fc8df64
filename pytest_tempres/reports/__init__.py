"""How is it told? One summary, and one file for each format."""
