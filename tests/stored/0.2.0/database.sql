BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0004');
CREATE TABLE api_keys (
	prefix VARCHAR(16) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	name VARCHAR(200) NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	max_jobs INTEGER, 
	max_gpus INTEGER, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME, 
	last_used_at DATETIME, 
	revoked_at DATETIME, 
	PRIMARY KEY (prefix)
);
INSERT INTO "api_keys" VALUES('00000001','bf11bf31a1a5aeba98c7ad20e16f18b2cf69783b425ce51769c398ef7c88b29c','first','admin',NULL,NULL,'2026-01-01 00:00:00.000000',NULL,NULL,NULL);
CREATE TABLE attempts (
	job_id VARCHAR(64) NOT NULL, 
	number INTEGER NOT NULL, 
	submission_id VARCHAR(80) NOT NULL, 
	created_at DATETIME NOT NULL, 
	submitted_at DATETIME, 
	ended_at DATETIME, 
	outcome VARCHAR(32), 
	message TEXT, 
	archived_at DATETIME, 
	PRIMARY KEY (job_id, number), 
	FOREIGN KEY(job_id) REFERENCES jobs (id), 
	UNIQUE (submission_id)
);
INSERT INTO "attempts" VALUES('01a2132bb4d67eb2f767',1,'01a2132bb4d67eb2f767-1','2026-01-01 00:00:00.000000','2026-01-01 00:00:00.000000','2026-01-01 00:01:01.000000','succeeded',NULL,'2026-01-01 00:01:01.000000');
INSERT INTO "attempts" VALUES('01a2132bb4ddca639ffd',1,'01a2132bb4ddca639ffd-1','2026-01-01 00:01:01.000000','2026-01-01 00:01:01.000000',NULL,NULL,NULL,NULL);
INSERT INTO "attempts" VALUES('01a2132bb53d5f0e0ab0',1,'01a2132bb53d5f0e0ab0-1','2026-01-01 00:01:02.000000','2026-01-01 00:01:02.000000','2026-01-01 00:01:03.000000','user','no images in /data','2026-01-01 00:01:03.000000');
INSERT INTO "attempts" VALUES('01a2132bb55ee248976c',1,'01a2132bb55ee248976c-1','2026-01-01 00:01:04.000000','2026-01-01 00:01:04.000000',NULL,NULL,NULL,NULL);
INSERT INTO "attempts" VALUES('01a2132bb578b46fac07',1,'01a2132bb578b46fac07-1','2026-01-01 00:01:05.000000','2026-01-01 00:01:05.000000','2026-01-01 00:01:06.000000','infrastructure','the driver ended with exit code 137; its log says more','2026-01-01 00:01:06.000000');
CREATE TABLE audit (
	id INTEGER NOT NULL, 
	at DATETIME NOT NULL, 
	name VARCHAR(200) NOT NULL, 
	"key" VARCHAR(16), 
	address VARCHAR(64) NOT NULL, 
	method VARCHAR(8) NOT NULL, 
	path TEXT NOT NULL, 
	status INTEGER, 
	made TEXT, 
	PRIMARY KEY (id)
);
CREATE TABLE dependencies (
	job_id VARCHAR(64) NOT NULL, 
	depends_on VARCHAR(64) NOT NULL, 
	condition VARCHAR(16) NOT NULL, 
	PRIMARY KEY (job_id, depends_on), 
	FOREIGN KEY(job_id) REFERENCES jobs (id), 
	FOREIGN KEY(depends_on) REFERENCES jobs (id)
);
INSERT INTO "dependencies" VALUES('01a2132bb4ddca639ffd','01a2132bb4d67eb2f767','succeeded');
CREATE TABLE events (
	id INTEGER NOT NULL, 
	job_id VARCHAR(64) NOT NULL, 
	at DATETIME NOT NULL, 
	"before" VARCHAR(16), 
	"after" VARCHAR(16) NOT NULL, 
	attempt INTEGER, 
	message TEXT, 
	PRIMARY KEY (id), 
	FOREIGN KEY(job_id) REFERENCES jobs (id)
);
INSERT INTO "events" VALUES(1,'01a2132bb4d67eb2f767','2026-01-01 00:00:00.000000',NULL,'queued',NULL,'submitted');
INSERT INTO "events" VALUES(2,'01a2132bb4ddca639ffd','2026-01-01 00:00:00.000000',NULL,'waiting',NULL,'submitted');
INSERT INTO "events" VALUES(3,'01a2132bb4d67eb2f767','2026-01-01 00:00:00.000000','queued','starting',NULL,NULL);
INSERT INTO "events" VALUES(4,'01a2132bb4d67eb2f767','2026-01-01 00:00:01.000000','starting','running',1,NULL);
INSERT INTO "events" VALUES(5,'01a2132bb4d67eb2f767','2026-01-01 00:01:01.000000','running','succeeded',1,NULL);
INSERT INTO "events" VALUES(6,'01a2132bb4ddca639ffd','2026-01-01 00:01:01.000000','waiting','queued',NULL,NULL);
INSERT INTO "events" VALUES(7,'01a2132bb4ddca639ffd','2026-01-01 00:01:01.000000','queued','starting',NULL,NULL);
INSERT INTO "events" VALUES(8,'01a2132bb53d5f0e0ab0','2026-01-01 00:01:01.000000',NULL,'queued',NULL,'submitted');
INSERT INTO "events" VALUES(9,'01a2132bb53d5f0e0ab0','2026-01-01 00:01:02.000000','queued','starting',NULL,NULL);
INSERT INTO "events" VALUES(10,'01a2132bb53d5f0e0ab0','2026-01-01 00:01:03.000000','starting','failed',1,'no images in /data');
INSERT INTO "events" VALUES(11,'01a2132bb55ee248976c','2026-01-01 00:01:03.000000',NULL,'queued',NULL,'submitted');
INSERT INTO "events" VALUES(12,'01a2132bb55ee248976c','2026-01-01 00:01:04.000000','queued','starting',NULL,NULL);
INSERT INTO "events" VALUES(13,'01a2132bb578b46fac07','2026-01-01 00:01:04.000000',NULL,'queued',NULL,'submitted');
INSERT INTO "events" VALUES(14,'01a2132bb578b46fac07','2026-01-01 00:01:05.000000','queued','starting',NULL,NULL);
INSERT INTO "events" VALUES(15,'01a2132bb578b46fac07','2026-01-01 00:01:06.000000','starting','queued',1,'attempt 1 of 9 failed, the next starts in 10 s: the driver ended with exit code 137; its log says more');
INSERT INTO "events" VALUES(16,'01a2132bb59d9e61d907','2026-01-01 00:01:06.000000',NULL,'queued',NULL,'submitted');
CREATE TABLE idempotency_keys (
	"key" VARCHAR(255) NOT NULL, 
	request_digest VARCHAR(64) NOT NULL, 
	answer JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	PRIMARY KEY ("key")
);
CREATE TABLE job_labels (
	job_id VARCHAR(64) NOT NULL, 
	"key" VARCHAR(64) NOT NULL, 
	value VARCHAR(200) NOT NULL, 
	PRIMARY KEY (job_id, "key"), 
	FOREIGN KEY(job_id) REFERENCES jobs (id)
);
INSERT INTO "job_labels" VALUES('01a2132bb4d67eb2f767','team','vision');
INSERT INTO "job_labels" VALUES('01a2132bb4ddca639ffd','team','vision');
CREATE TABLE "jobs" (
	id VARCHAR(64) NOT NULL, 
	kind VARCHAR(32) NOT NULL, 
	name VARCHAR(200) NOT NULL, 
	experiment VARCHAR(200) NOT NULL, 
	priority INTEGER NOT NULL, 
	spec JSON NOT NULL, 
	request JSON NOT NULL, 
	max_attempts INTEGER NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	reason TEXT, 
	failure VARCHAR(32), 
	retry_of VARCHAR(64), 
	not_before DATETIME, 
	run_id VARCHAR(64), 
	experiment_id VARCHAR(64), 
	progress JSON, 
	summary JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	started_at DATETIME, 
	finished_at DATETIME, 
	promoted_from VARCHAR(64), 
	schedule_id VARCHAR(64), 
	start_after DATETIME, 
	deadline DATETIME, 
	max_runtime FLOAT, owner VARCHAR(200), 
	PRIMARY KEY (id), 
	CONSTRAINT fk_jobs_promoted_from FOREIGN KEY(promoted_from) REFERENCES jobs (id), 
	FOREIGN KEY(retry_of) REFERENCES jobs (id)
);
INSERT INTO "jobs" VALUES('01a2132bb4d67eb2f767','pretrain','done','default',0,'{"kind": "pretrain", "name": "done", "experiment": "default", "labels": {"team": "vision"}, "priority": 0, "depends_on": [], "condition": "succeeded", "start_after": null, "deadline": null, "max_runtime": null, "retry": {"max_attempts": 3}, "method": {"name": "vicreg", "invariance": 25.0, "variance": 25.0, "covariance": 1.0}, "backbone": {"name": "resnet18", "stem": "imagenet", "patch_size": 16}, "expander": {"layers": [2048, 2048, 2048], "batchnorm": true, "normalization": "none"}, "branches": {"weights": "shared", "backbone": null, "momentum": 0.99, "stop_gradient": false, "predictor": null}, "data": {"share": 1.0, "share_seed": 0, "source": "digits", "split": "train", "image_size": 32}, "augmentation": {"preset": "vicreg", "crop_scale": [0.08, 1.0], "horizontal_flip": 0.5, "color_jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "grayscale": 0.2, "blur": [1.0, 0.1], "solarize": [0.0, 0.2]}, "optimizer": {"name": "lars", "preset": "vicreg", "base_lr": 0.3, "weight_decay": 1e-06, "momentum": 0.9, "eta": 0.001, "clip": false}, "training": {"epochs": 100, "batch_size": 256, "warmup_epochs": 10, "precision": "fp32", "compile": false, "seed": 0}, "watch": {"collapse_std": 0.01, "collapse_steps": 200, "knn_every_epochs": null}, "resources": {"workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0}, "checkpoint": {"every_epochs": 1, "keep": 2}, "evaluations": [{"protocol": {"name": "knn", "k": 200, "temperature": 0.07}, "data": null}]}','{"kind": "pretrain", "data": {"source": "digits"}, "name": "done", "labels": {"team": "vision"}, "evaluations": [{"protocol": {"name": "knn"}}]}',3,'succeeded',NULL,NULL,NULL,NULL,'run-01a2132bb4d67eb2f767','1','null','{"train/loss": 3.0}','2026-01-01 00:00:00.000000','2026-01-01 00:00:01.000000','2026-01-01 00:01:01.000000',NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('01a2132bb4ddca639ffd','evaluate','done-knn','default',0,'{"kind": "evaluate", "name": "done-knn", "experiment": "default", "labels": {"team": "vision"}, "priority": 0, "depends_on": [], "condition": "succeeded", "start_after": null, "deadline": null, "max_runtime": null, "retry": {"max_attempts": 3}, "encoder": {"job": "01a2132bb4d67eb2f767"}, "protocol": {"name": "knn", "k": 200, "temperature": 0.07}, "data": {"train": {"share": 1.0, "share_seed": 0, "source": "digits", "split": "train", "image_size": 32}, "test": {"share": 1.0, "share_seed": 0, "source": "digits", "split": "test", "image_size": 32}}, "resources": {"cpus": 1, "gpus": 0}}','{"kind": "evaluate", "name": "done-knn", "experiment": "default", "labels": {"team": "vision"}, "priority": 0, "depends_on": [], "condition": "succeeded", "start_after": null, "deadline": null, "max_runtime": null, "retry": {"max_attempts": 3}, "encoder": {"job": "01a2132bb4d67eb2f767"}, "protocol": {"name": "knn", "k": 200, "temperature": 0.07}, "data": {"train": {"share": 1.0, "share_seed": 0, "source": "digits", "split": "train", "image_size": 32}, "test": {"share": 1.0, "share_seed": 0, "source": "digits", "split": "test", "image_size": 32}}, "resources": {"cpus": 1, "gpus": 0}}',3,'starting',NULL,NULL,NULL,NULL,'run-01a2132bb4ddca639ffd','1',NULL,'{}','2026-01-01 00:00:00.000000',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('01a2132bb53d5f0e0ab0','pretrain','failed','default',0,'{"kind": "pretrain", "name": "failed", "experiment": "default", "labels": {}, "priority": 0, "depends_on": [], "condition": "succeeded", "start_after": null, "deadline": null, "max_runtime": null, "retry": {"max_attempts": 3}, "method": {"name": "vicreg", "invariance": 25.0, "variance": 25.0, "covariance": 1.0}, "backbone": {"name": "resnet18", "stem": "imagenet", "patch_size": 16}, "expander": {"layers": [2048, 2048, 2048], "batchnorm": true, "normalization": "none"}, "branches": {"weights": "shared", "backbone": null, "momentum": 0.99, "stop_gradient": false, "predictor": null}, "data": {"share": 1.0, "share_seed": 0, "source": "digits", "split": "train", "image_size": 32}, "augmentation": {"preset": "vicreg", "crop_scale": [0.08, 1.0], "horizontal_flip": 0.5, "color_jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "grayscale": 0.2, "blur": [1.0, 0.1], "solarize": [0.0, 0.2]}, "optimizer": {"name": "lars", "preset": "vicreg", "base_lr": 0.3, "weight_decay": 1e-06, "momentum": 0.9, "eta": 0.001, "clip": false}, "training": {"epochs": 100, "batch_size": 256, "warmup_epochs": 10, "precision": "fp32", "compile": false, "seed": 0}, "watch": {"collapse_std": 0.01, "collapse_steps": 200, "knn_every_epochs": null}, "resources": {"workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0}, "checkpoint": {"every_epochs": 1, "keep": 2}, "evaluations": []}','{"kind": "pretrain", "data": {"source": "digits"}, "name": "failed"}',3,'failed','no images in /data','user',NULL,NULL,'run-01a2132bb53d5f0e0ab0','1','null','{"train/loss": 3.0}','2026-01-01 00:01:01.000000',NULL,'2026-01-01 00:01:03.000000',NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('01a2132bb55ee248976c','sweep','search','default',0,'{"kind": "sweep", "name": "search", "experiment": "default", "labels": {}, "priority": 0, "depends_on": [], "condition": "succeeded", "start_after": null, "deadline": null, "max_runtime": null, "retry": {"max_attempts": 3}, "base": {"kind": "pretrain", "data": {"source": "digits"}, "resources": {"workers": 1}, "watch": {"knn_every_epochs": 1}, "method": {"name": "vicreg"}}, "space": {"method.variance": {"choice": [1.0, 25.0]}}, "objective": {"metric": "knn/top1", "mode": "max", "value": "best"}, "search": {"algorithm": "random", "trials": 16, "seed": 0}, "scheduler": {"name": "asha", "grace_epochs": 1, "reduction_factor": 4}, "concurrency": 2, "promote": false}','{"kind": "sweep", "base": {"data": {"source": "digits"}, "resources": {"workers": 1}}, "space": {"method.variance": {"choice": [1.0, 25.0]}}, "concurrency": 2, "name": "search"}',3,'starting',NULL,NULL,NULL,NULL,'run-01a2132bb55ee248976c','1',NULL,'{}','2026-01-01 00:01:03.000000',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('01a2132bb578b46fac07','pretrain','between','default',0,'{"kind": "pretrain", "name": "between", "experiment": "default", "labels": {}, "priority": 0, "depends_on": [], "condition": "succeeded", "start_after": null, "deadline": null, "max_runtime": null, "retry": {"max_attempts": 9}, "method": {"name": "vicreg", "invariance": 25.0, "variance": 25.0, "covariance": 1.0}, "backbone": {"name": "resnet18", "stem": "imagenet", "patch_size": 16}, "expander": {"layers": [2048, 2048, 2048], "batchnorm": true, "normalization": "none"}, "branches": {"weights": "shared", "backbone": null, "momentum": 0.99, "stop_gradient": false, "predictor": null}, "data": {"share": 1.0, "share_seed": 0, "source": "digits", "split": "train", "image_size": 32}, "augmentation": {"preset": "vicreg", "crop_scale": [0.08, 1.0], "horizontal_flip": 0.5, "color_jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "grayscale": 0.2, "blur": [1.0, 0.1], "solarize": [0.0, 0.2]}, "optimizer": {"name": "lars", "preset": "vicreg", "base_lr": 0.3, "weight_decay": 1e-06, "momentum": 0.9, "eta": 0.001, "clip": false}, "training": {"epochs": 100, "batch_size": 256, "warmup_epochs": 10, "precision": "fp32", "compile": false, "seed": 0}, "watch": {"collapse_std": 0.01, "collapse_steps": 200, "knn_every_epochs": null}, "resources": {"workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0}, "checkpoint": {"every_epochs": 1, "keep": 2}, "evaluations": []}','{"kind": "pretrain", "data": {"source": "digits"}, "name": "between", "resources": {"workers": 1}, "retry": {"max_attempts": 9}}',9,'queued','attempt 1 of 9 failed, the next starts in 10 s: the driver ended with exit code 137; its log says more',NULL,NULL,'2026-01-01 00:01:16.000000','run-01a2132bb578b46fac07','1','null','{"train/loss": 3.0}','2026-01-01 00:01:04.000000',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('01a2132bb59d9e61d907','pretrain','queued','default',3,'{"kind": "pretrain", "name": "queued", "experiment": "default", "labels": {}, "priority": 3, "depends_on": [], "condition": "succeeded", "start_after": null, "deadline": null, "max_runtime": null, "retry": {"max_attempts": 3}, "method": {"name": "vicreg", "invariance": 25.0, "variance": 25.0, "covariance": 1.0}, "backbone": {"name": "resnet18", "stem": "imagenet", "patch_size": 16}, "expander": {"layers": [2048, 2048, 2048], "batchnorm": true, "normalization": "none"}, "branches": {"weights": "shared", "backbone": null, "momentum": 0.99, "stop_gradient": false, "predictor": null}, "data": {"share": 1.0, "share_seed": 0, "source": "digits", "split": "train", "image_size": 32}, "augmentation": {"preset": "vicreg", "crop_scale": [0.08, 1.0], "horizontal_flip": 0.5, "color_jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "grayscale": 0.2, "blur": [1.0, 0.1], "solarize": [0.0, 0.2]}, "optimizer": {"name": "lars", "preset": "vicreg", "base_lr": 0.3, "weight_decay": 1e-06, "momentum": 0.9, "eta": 0.001, "clip": false}, "training": {"epochs": 100, "batch_size": 256, "warmup_epochs": 10, "precision": "fp32", "compile": false, "seed": 0}, "watch": {"collapse_std": 0.01, "collapse_steps": 200, "knn_every_epochs": null}, "resources": {"workers": 4, "cpus_per_worker": 1, "gpus_per_worker": 0}, "checkpoint": {"every_epochs": 1, "keep": 2}, "evaluations": []}','{"kind": "pretrain", "data": {"source": "digits"}, "name": "queued", "resources": {"workers": 4}, "priority": 3}',3,'queued','waits for room: it needs 4 × 1 CPU',NULL,NULL,NULL,NULL,NULL,NULL,'{}','2026-01-01 00:01:06.000000',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE leases (
	name VARCHAR(64) NOT NULL, 
	holder VARCHAR(64) NOT NULL, 
	expires_at DATETIME NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "leases" VALUES('dispatcher','vm-18268-01a2132bb4d159384701','2026-01-01 00:01:22.000000');
CREATE TABLE schedules (
	id VARCHAR(64) NOT NULL, 
	name VARCHAR(200) NOT NULL, 
	spec JSON NOT NULL, 
	paused BOOLEAN NOT NULL, 
	next_tick DATETIME, 
	runs INTEGER NOT NULL, 
	created_at DATETIME NOT NULL, 
	updated_at DATETIME NOT NULL, owner VARCHAR(200), 
	PRIMARY KEY (id)
);
INSERT INTO "schedules" VALUES('01a2132bb570ebcd5f7e','nightly','{"name": "nightly", "cron": "30 2 * * *", "timezone": "Europe/Paris", "job": {"kind": "pretrain", "data": {"source": "digits"}}, "overlap": "skip", "catch_up": "last", "catch_up_limit": 10, "jitter": "PT0S", "ends_at": null, "max_runs": null}',0,'2026-01-01 01:30:00.000000',0,'2026-01-01 00:01:04.000000','2026-01-01 00:01:04.000000',NULL);
CREATE TABLE ticks (
	schedule_id VARCHAR(64) NOT NULL, 
	at DATETIME NOT NULL, 
	outcome VARCHAR(16) NOT NULL, 
	reason TEXT, 
	job_id VARCHAR(64), 
	created_at DATETIME NOT NULL, 
	PRIMARY KEY (schedule_id, at), 
	FOREIGN KEY(schedule_id) REFERENCES schedules (id) ON DELETE CASCADE, 
	FOREIGN KEY(job_id) REFERENCES jobs (id)
);
CREATE INDEX ix_attempts_unarchived ON attempts (ended_at) WHERE archived_at IS NULL;
CREATE UNIQUE INDEX ux_attempts_live ON attempts (job_id) WHERE ended_at IS NULL;
CREATE INDEX ix_events_job ON events (job_id, id);
CREATE INDEX ix_job_labels ON job_labels ("key", value, job_id);
CREATE INDEX ix_dependencies_depends_on ON dependencies (depends_on);
CREATE UNIQUE INDEX ux_jobs_promoted_from ON jobs (promoted_from);
CREATE INDEX ix_jobs_queue ON jobs (state, priority, id);
CREATE INDEX ix_jobs_experiment ON jobs (experiment, id);
CREATE INDEX ix_jobs_schedule_id ON jobs (schedule_id, id);
CREATE INDEX ix_jobs_deadline ON jobs (deadline) WHERE finished_at IS NULL;
CREATE INDEX ix_schedules_next_tick ON schedules (next_tick);
CREATE INDEX ix_api_keys_name ON api_keys (name);
CREATE INDEX ix_jobs_owner ON jobs (owner) WHERE finished_at IS NULL;
COMMIT;
