"""Many images through the gateway, or through an archive itself: one row each."""
