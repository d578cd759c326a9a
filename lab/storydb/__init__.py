"""StoryDB (Storynizor, section 4): groups of pictures of the same characters, to train on."""
