"""Engine directories: the manifest, writing a directory whole or not at all, and opening one."""
