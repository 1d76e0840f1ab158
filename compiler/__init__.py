"""The compiler: the IR, the frontends that write it, the passes that rewrite it and the targets that emit it."""
