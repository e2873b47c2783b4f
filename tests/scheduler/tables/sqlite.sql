CREATE TABLE scheduled_tasks (
	id VARCHAR(255) NOT NULL,
	task_name VARCHAR(255) NOT NULL,
	schedule_type VARCHAR(50) NOT NULL,
	schedule TEXT NOT NULL,
	args TEXT NOT NULL,
	kwargs TEXT NOT NULL,
	enabled INTEGER NOT NULL,
	last_run_at TEXT,
	next_run_at TEXT,
	created_at TEXT NOT NULL,
	updated_at TEXT NOT NULL,
	description TEXT,
	max_retries INTEGER NOT NULL,
	retry_delay FLOAT NOT NULL,
	priority INTEGER NOT NULL,
	timezone VARCHAR(64),
	misfire_grace FLOAT DEFAULT '86400' NOT NULL,
	misfire VARCHAR(16) DEFAULT 'latest' NOT NULL,
	max_running INTEGER,
	broken TEXT,
	due BIGINT,
	last_run BIGINT,
	definition VARCHAR(64),
	PRIMARY KEY (id)
)
;
CREATE UNIQUE INDEX flowrra_schedules_definition ON scheduled_tasks (definition);
CREATE INDEX flowrra_schedules_due ON scheduled_tasks (enabled, due);
CREATE TABLE schedule_runs (
	id VARCHAR(255) NOT NULL,
	schedule_id VARCHAR(255) NOT NULL,
	due BIGINT NOT NULL,
	fired BIGINT,
	lease BIGINT,
	owner VARCHAR(255),
	task_name VARCHAR(255),
	alive BIGINT,
	attempts INTEGER NOT NULL,
	result VARCHAR(16) NOT NULL,
	error TEXT,
	PRIMARY KEY (id)
)
;
CREATE INDEX flowrra_runs_due ON schedule_runs (due);
CREATE INDEX flowrra_runs_lease ON schedule_runs (lease);
CREATE INDEX ix_schedule_runs_schedule_id ON schedule_runs (schedule_id);
