"""From records to tables: what runs measured, over their seeds."""
