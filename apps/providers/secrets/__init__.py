"""Keys of model providers: where they are read, who may hold them, and how a process keeps them fresh."""
