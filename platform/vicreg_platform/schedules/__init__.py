"""Schedules: jobs submitted at the times of a cron expression."""
