"""Who does the work: this process, other processes here, or machines elsewhere. Engines know nothing about MR."""
