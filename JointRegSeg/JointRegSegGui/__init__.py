"""Parts of the panel: what needs qt, and nothing else. All that can be known without a window is in `scene`."""
