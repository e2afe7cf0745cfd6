"""The migration layer: moves an application's EDN memory file into the database, and proves that nothing was lost."""
