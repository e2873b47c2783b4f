CREATE TABLE scheduled_tasks (
	id VARCHAR(255) NOT NULL,
	task_name VARCHAR(255) NOT NULL,
	schedule_type VARCHAR(50) NOT NULL,
	schedule TEXT NOT NULL,
	args JSON NOT NULL,
	kwargs JSON NOT NULL,
	enabled BOOL NOT NULL,
	last_run_at DATETIME(6),
	next_run_at DATETIME(6),
	created_at DATETIME(6) NOT NULL,
	updated_at DATETIME(6) NOT NULL,
	description TEXT,
	max_retries INTEGER NOT NULL,
	retry_delay DOUBLE NOT NULL,
	priority INTEGER NOT NULL,
	timezone VARCHAR(64),
	misfire_grace DOUBLE NOT NULL DEFAULT '86400',
	misfire VARCHAR(16) NOT NULL DEFAULT 'latest',
	max_running INTEGER,
	broken TEXT,
	due BIGINT,
	last_run BIGINT,
	definition VARCHAR(64),
	PRIMARY KEY (id)
)CHARSET=utf8mb4 COLLATE utf8mb4_bin
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
)CHARSET=utf8mb4 COLLATE utf8mb4_bin
;
CREATE INDEX flowrra_runs_due ON schedule_runs (due);
CREATE INDEX flowrra_runs_lease ON schedule_runs (lease);
CREATE INDEX ix_schedule_runs_schedule_id ON schedule_runs (schedule_id);
