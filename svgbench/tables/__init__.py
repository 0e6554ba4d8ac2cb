"""From score records to tables; reads what runs wrote, never a running process."""
