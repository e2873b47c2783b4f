"""What the Management API promises: shapes, truth and reachability from everywhere."""
