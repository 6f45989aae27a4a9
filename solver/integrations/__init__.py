"""The factors inside other libraries. Each module needs its library, which importing ``ksubspaces`` never loads."""
