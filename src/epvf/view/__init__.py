"""Pictures of what policies do: videos of one or several, and of the noise around them."""
