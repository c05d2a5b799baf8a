BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0013');
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
	revoked_at DATETIME, max_priority INTEGER, weight FLOAT, 
	PRIMARY KEY (prefix)
);
INSERT INTO "api_keys" VALUES('4ae24ec4','307a43c825a05b2693e6b6a2aeae84d4e46e9801a292f1070db75060d7d6cce4','first','admin',NULL,NULL,'2026-01-01 00:00:00.000000',NULL,NULL,NULL,NULL,NULL);
CREATE TABLE attempts (
	job_id VARCHAR(64) NOT NULL, 
	number INTEGER NOT NULL, 
	submission_id VARCHAR(80) NOT NULL, 
	created_at DATETIME NOT NULL, 
	submitted_at DATETIME, 
	ended_at DATETIME, 
	outcome VARCHAR(32), 
	message TEXT, 
	archived_at DATETIME, queued_at DATETIME, timeline JSON, workers INTEGER, 
	PRIMARY KEY (job_id, number), 
	FOREIGN KEY(job_id) REFERENCES jobs (id), 
	UNIQUE (submission_id)
);
INSERT INTO "attempts" VALUES('01a222676ccfd92fcea0',1,'01a222676ccfd92fcea0-1','2026-01-01 00:00:01.000000','2026-01-01 00:00:01.000000','2026-01-01 00:00:03.000000','succeeded',NULL,'2026-01-01 00:00:03.000000','2026-01-01 00:00:01.000000',NULL,1);
INSERT INTO "attempts" VALUES('01a222676cd52dae72ef',1,'01a222676cd52dae72ef-1','2026-01-01 00:00:04.000000','2026-01-01 00:00:04.000000',NULL,NULL,NULL,NULL,'2026-01-01 00:00:03.000000',NULL,1);
INSERT INTO "attempts" VALUES('01a222676d3468e6edc7',1,'01a222676d3468e6edc7-1','2026-01-01 00:00:04.000000','2026-01-01 00:00:04.000000','2026-01-01 00:00:05.000000','user','no images in /data','2026-01-01 00:00:05.000000','2026-01-01 00:00:04.000000',NULL,1);
INSERT INTO "attempts" VALUES('01a222676d5f94a5da46',1,'01a222676d5f94a5da46-1','2026-01-01 00:00:06.000000','2026-01-01 00:00:06.000000','2026-01-01 00:00:08.000000','paused','paused by the user','2026-01-01 00:00:08.000000','2026-01-01 00:00:06.000000',NULL,1);
INSERT INTO "attempts" VALUES('01a222676db3535d7516',1,'01a222676db3535d7516-1','2026-01-01 00:00:09.000000','2026-01-01 00:00:09.000000','2026-01-01 00:00:10.000000','infrastructure','the driver exited with code 137; see its log','2026-01-01 00:00:10.000000','2026-01-01 00:00:09.000000',NULL,1);
INSERT INTO "attempts" VALUES('01a222676dd4903e420e',1,'01a222676dd4903e420e-1','2026-01-01 00:00:11.000000','2026-01-01 00:00:11.000000',NULL,NULL,NULL,NULL,'2026-01-01 00:00:11.000000',NULL,NULL);
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
CREATE TABLE browser_sessions (
	digest VARCHAR(64) NOT NULL, 
	"key" VARCHAR(16) NOT NULL, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, 
	PRIMARY KEY (digest), 
	FOREIGN KEY("key") REFERENCES api_keys (prefix)
);
CREATE TABLE dependencies (
	job_id VARCHAR(64) NOT NULL, 
	depends_on VARCHAR(64) NOT NULL, 
	condition VARCHAR(16) NOT NULL, epoch INTEGER, 
	PRIMARY KEY (job_id, depends_on), 
	FOREIGN KEY(job_id) REFERENCES jobs (id), 
	FOREIGN KEY(depends_on) REFERENCES jobs (id)
);
INSERT INTO "dependencies" VALUES('01a222676cd52dae72ef','01a222676ccfd92fcea0','succeeded',NULL);
CREATE TABLE events (
	id INTEGER NOT NULL, 
	job_id VARCHAR(64) NOT NULL, 
	at DATETIME NOT NULL, 
	"before" VARCHAR(16), 
	"after" VARCHAR(16) NOT NULL, 
	attempt INTEGER, 
	message TEXT, finding TEXT, 
	PRIMARY KEY (id), 
	FOREIGN KEY(job_id) REFERENCES jobs (id)
);
INSERT INTO "events" VALUES(1,'01a222676ccfd92fcea0','2026-01-01 00:00:01.000000',NULL,'queued',NULL,'submitted',NULL);
INSERT INTO "events" VALUES(2,'01a222676cd52dae72ef','2026-01-01 00:00:01.000000',NULL,'waiting',NULL,'submitted',NULL);
INSERT INTO "events" VALUES(3,'01a222676ccfd92fcea0','2026-01-01 00:00:01.000000','queued','starting',NULL,NULL,NULL);
INSERT INTO "events" VALUES(4,'01a222676ccfd92fcea0','2026-01-01 00:00:02.000000','starting','running',1,NULL,NULL);
INSERT INTO "events" VALUES(5,'01a222676ccfd92fcea0','2026-01-01 00:00:03.000000','running','succeeded',1,NULL,NULL);
INSERT INTO "events" VALUES(6,'01a222676cd52dae72ef','2026-01-01 00:00:03.000000','waiting','queued',NULL,NULL,NULL);
INSERT INTO "events" VALUES(7,'01a222676d3468e6edc7','2026-01-01 00:00:04.000000',NULL,'queued',NULL,'submitted',NULL);
INSERT INTO "events" VALUES(8,'01a222676cd52dae72ef','2026-01-01 00:00:04.000000','queued','starting',NULL,NULL,NULL);
INSERT INTO "events" VALUES(9,'01a222676d3468e6edc7','2026-01-01 00:00:04.000000','queued','starting',NULL,NULL,NULL);
INSERT INTO "events" VALUES(10,'01a222676d3468e6edc7','2026-01-01 00:00:05.000000','starting','failed',1,'no images in /data',NULL);
INSERT INTO "events" VALUES(11,'01a222676d5f94a5da46','2026-01-01 00:00:06.000000',NULL,'queued',NULL,'submitted',NULL);
INSERT INTO "events" VALUES(12,'01a222676d5f94a5da46','2026-01-01 00:00:06.000000','queued','starting',NULL,NULL,NULL);
INSERT INTO "events" VALUES(13,'01a222676d5f94a5da46','2026-01-01 00:00:07.000000','starting','running',1,NULL,NULL);
INSERT INTO "events" VALUES(14,'01a222676d5f94a5da46','2026-01-01 00:00:07.000000','running','stopping',NULL,'paused by the user',NULL);
INSERT INTO "events" VALUES(15,'01a222676d5f94a5da46','2026-01-01 00:00:08.000000','stopping','paused',1,'paused by the user',NULL);
INSERT INTO "events" VALUES(16,'01a222676db3535d7516','2026-01-01 00:00:09.000000',NULL,'queued',NULL,'submitted',NULL);
INSERT INTO "events" VALUES(17,'01a222676db3535d7516','2026-01-01 00:00:09.000000','queued','starting',NULL,NULL,NULL);
INSERT INTO "events" VALUES(18,'01a222676db3535d7516','2026-01-01 00:00:10.000000','starting','queued',1,'attempt 1 of 9 failed, the next starts in 5 s: the driver exited with code 137; see its log',NULL);
INSERT INTO "events" VALUES(19,'01a222676dd4903e420e','2026-01-01 00:00:11.000000',NULL,'queued',NULL,'submitted',NULL);
INSERT INTO "events" VALUES(20,'01a222676dd4903e420e','2026-01-01 00:00:11.000000','queued','starting',NULL,NULL,NULL);
INSERT INTO "events" VALUES(21,'01a222676e068deb5028','2026-01-01 00:00:12.000000',NULL,'queued',NULL,'submitted',NULL);
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
INSERT INTO "job_labels" VALUES('01a222676ccfd92fcea0','team','vision');
INSERT INTO "job_labels" VALUES('01a222676cd52dae72ef','team','vision');
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
	depends_on VARCHAR(64), 
	retry_of VARCHAR(64), 
	not_before DATETIME, 
	run_id VARCHAR(64), 
	experiment_id VARCHAR(64), 
	progress JSON, 
	summary JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	started_at DATETIME, 
	finished_at DATETIME, 
	promoted_from VARCHAR(64), schedule_id VARCHAR(64), start_after DATETIME, deadline DATETIME, max_runtime FLOAT, owner VARCHAR(200), spec_version INTEGER, workers INTEGER, cpus_per_worker FLOAT, gpus_per_worker FLOAT, trials_at_once INTEGER, run_closed_at DATETIME, parent_id VARCHAR(64), worker_sizes JSON, resized_at DATETIME, preemptible BOOLEAN, displaced_by VARCHAR(64), version INTEGER DEFAULT '1' NOT NULL, stop_cause VARCHAR(16), extends VARCHAR(64), progress_at DATETIME, kept_epoch INTEGER, step_cost VARCHAR(64), relabelled_at DATETIME, 
	PRIMARY KEY (id), 
	CONSTRAINT fk_jobs_promoted_from FOREIGN KEY(promoted_from) REFERENCES jobs (id), 
	FOREIGN KEY(retry_of) REFERENCES jobs (id), 
	FOREIGN KEY(depends_on) REFERENCES jobs (id)
);
INSERT INTO "jobs" VALUES('01a222676ccfd92fcea0','pretrain','done','default',0,'{"kind": "pretrain", "name": "done", "experiment": "default", "labels": {"team": "vision"}, "priority": 0, "depends_on": [], "condition": "succeeded", "start_after": null, "deadline": null, "max_runtime": null, "preemptible": true, "retry": {"max_attempts": 3}, "method": {"invariance": 25.0, "variance": 25.0, "covariance": 1.0, "name": "vicreg"}, "backbone": {"name": "resnet18", "stem": "imagenet", "patch_size": 16, "drop_path": 0.0}, "init": null, "expander": {"layers": [2048, 2048, 2048], "batchnorm": true, "normalization": "none"}, "branches": {"weights": "shared", "backbone": null, "momentum": 0.99, "stop_gradient": false, "predictor": null}, "data": {"share": 1.0, "share_seed": 0, "hold": "auto", "source": "digits", "split": "train", "image_size": 32}, "augmentation": {"preset": "vicreg", "views": {"global": 2, "local": 0, "local_size": 96, "local_scale": null}, "crop_scale": [0.08, 1.0], "horizontal_flip": 0.5, "color_jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "grayscale": 0.2, "blur": [1.0, 0.1], "solarize": [0.0, 0.2], "resample": "torch"}, "optimizer": {"layer_decay": 1.0, "name": "lars", "preset": "vicreg", "base_lr": 0.3, "weight_decay": 1e-06, "momentum": 0.9, "eta": 0.001, "clip": false}, "training": {"epochs": 100, "batch_size": 256, "accumulate": 1, "sizes": [], "warmup_epochs": 10, "freeze_epochs": 0, "precision": "fp32", "checkpoint_activations": false, "compile": false, "seed": 0}, "watch": {"collapse_std": 0.01, "collapse_steps": 200, "knn_every_epochs": null, "probe": null, "patience": 3}, "resources": {"workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0}, "checkpoint": {"every_epochs": 1, "min_interval_seconds": 0, "keep": 2}, "evaluations": [{"protocol": {"name": "knn", "k": 200, "temperature": 0.07}, "suite": null, "data": null, "seeds": 1, "at_epochs": []}], "extends": null}','{"kind": "pretrain", "data": {"source": "digits"}, "labels": {"team": "vision"}, "evaluations": [{"protocol": {"name": "knn"}}], "name": "done"}',3,'succeeded',NULL,NULL,NULL,NULL,NULL,'run-01a222676ccfd92fcea0','1','null','{"train/loss": 3.0}','2026-01-01 00:00:01.000000','2026-01-01 00:00:02.000000','2026-01-01 00:00:03.000000',NULL,NULL,NULL,NULL,NULL,NULL,6,1,1.0,0.0,1,'2026-01-01 00:00:04.000000',NULL,'null',NULL,1,NULL,1,NULL,NULL,NULL,NULL,'9f10e045c198c18fdfb1fcaaf3bddcac2bcf7e1f9f9a21c98a8d27317eee965c',NULL);
INSERT INTO "jobs" VALUES('01a222676cd52dae72ef','evaluate','done-knn','default',0,'{"kind": "evaluate", "name": "done-knn", "experiment": "default", "labels": {"team": "vision"}, "priority": 0, "depends_on": [], "condition": "succeeded", "start_after": null, "deadline": null, "max_runtime": null, "preemptible": false, "retry": {"max_attempts": 3}, "encoder": {"job": "01a222676ccfd92fcea0", "epoch": null}, "protocol": {"name": "knn", "k": 200, "temperature": 0.07}, "data": {"train": {"share": 1.0, "share_seed": 0, "hold": "auto", "source": "digits", "split": "train", "image_size": 32}, "test": {"share": 1.0, "share_seed": 0, "hold": "auto", "source": "digits", "split": "test", "image_size": 32}, "interpolation": "bicubic"}, "seeds": 1, "curve": "knn", "precision": "fp32", "resources": {"workers": 1, "cpus": 1, "gpus": 0}}','{"kind": "evaluate", "name": "done-knn", "experiment": "default", "labels": {"team": "vision"}, "priority": 0, "depends_on": [], "condition": "succeeded", "start_after": null, "deadline": null, "max_runtime": null, "preemptible": false, "retry": {"max_attempts": 3}, "encoder": {"job": "01a222676ccfd92fcea0", "epoch": null}, "protocol": {"name": "knn", "k": 200, "temperature": 0.07}, "data": {"train": {"share": 1.0, "share_seed": 0, "hold": "auto", "source": "digits", "split": "train", "image_size": 32}, "test": {"share": 1.0, "share_seed": 0, "hold": "auto", "source": "digits", "split": "test", "image_size": 32}, "interpolation": "bicubic"}, "seeds": 1, "curve": "knn", "precision": "fp32", "resources": {"workers": 1, "cpus": 1, "gpus": 0}}',3,'starting',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'{}','2026-01-01 00:00:01.000000',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,6,1,1.0,0.0,1,NULL,'01a222676ccfd92fcea0','null',NULL,0,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('01a222676d3468e6edc7','pretrain','failed','default',0,'{"kind": "pretrain", "name": "failed", "experiment": "default", "labels": {}, "priority": 0, "depends_on": [], "condition": "succeeded", "start_after": null, "deadline": null, "max_runtime": null, "preemptible": true, "retry": {"max_attempts": 3}, "method": {"invariance": 25.0, "variance": 25.0, "covariance": 1.0, "name": "vicreg"}, "backbone": {"name": "resnet18", "stem": "imagenet", "patch_size": 16, "drop_path": 0.0}, "init": null, "expander": {"layers": [2048, 2048, 2048], "batchnorm": true, "normalization": "none"}, "branches": {"weights": "shared", "backbone": null, "momentum": 0.99, "stop_gradient": false, "predictor": null}, "data": {"share": 1.0, "share_seed": 0, "hold": "auto", "source": "digits", "split": "train", "image_size": 32}, "augmentation": {"preset": "vicreg", "views": {"global": 2, "local": 0, "local_size": 96, "local_scale": null}, "crop_scale": [0.08, 1.0], "horizontal_flip": 0.5, "color_jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "grayscale": 0.2, "blur": [1.0, 0.1], "solarize": [0.0, 0.2], "resample": "torch"}, "optimizer": {"layer_decay": 1.0, "name": "lars", "preset": "vicreg", "base_lr": 0.3, "weight_decay": 1e-06, "momentum": 0.9, "eta": 0.001, "clip": false}, "training": {"epochs": 100, "batch_size": 256, "accumulate": 1, "sizes": [], "warmup_epochs": 10, "freeze_epochs": 0, "precision": "fp32", "checkpoint_activations": false, "compile": false, "seed": 0}, "watch": {"collapse_std": 0.01, "collapse_steps": 200, "knn_every_epochs": null, "probe": null, "patience": 3}, "resources": {"workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0}, "checkpoint": {"every_epochs": 1, "min_interval_seconds": 0, "keep": 2}, "evaluations": [], "extends": null}','{"kind": "pretrain", "data": {"source": "digits"}, "name": "failed"}',3,'failed','no images in /data','user',NULL,NULL,NULL,'run-01a222676d3468e6edc7','1','null','{"train/loss": 3.0}','2026-01-01 00:00:04.000000',NULL,'2026-01-01 00:00:05.000000',NULL,NULL,NULL,NULL,NULL,NULL,6,1,1.0,0.0,1,'2026-01-01 00:00:06.000000',NULL,'null',NULL,1,NULL,1,NULL,NULL,NULL,NULL,'9f10e045c198c18fdfb1fcaaf3bddcac2bcf7e1f9f9a21c98a8d27317eee965c',NULL);
INSERT INTO "jobs" VALUES('01a222676d5f94a5da46','pretrain','paused','default',0,'{"kind": "pretrain", "name": "paused", "experiment": "default", "labels": {}, "priority": 0, "depends_on": [], "condition": "succeeded", "start_after": null, "deadline": null, "max_runtime": null, "preemptible": true, "retry": {"max_attempts": 3}, "method": {"invariance": 25.0, "variance": 25.0, "covariance": 1.0, "name": "vicreg"}, "backbone": {"name": "resnet18", "stem": "imagenet", "patch_size": 16, "drop_path": 0.0}, "init": null, "expander": {"layers": [2048, 2048, 2048], "batchnorm": true, "normalization": "none"}, "branches": {"weights": "shared", "backbone": null, "momentum": 0.99, "stop_gradient": false, "predictor": null}, "data": {"share": 1.0, "share_seed": 0, "hold": "auto", "source": "digits", "split": "train", "image_size": 32}, "augmentation": {"preset": "vicreg", "views": {"global": 2, "local": 0, "local_size": 96, "local_scale": null}, "crop_scale": [0.08, 1.0], "horizontal_flip": 0.5, "color_jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "grayscale": 0.2, "blur": [1.0, 0.1], "solarize": [0.0, 0.2], "resample": "torch"}, "optimizer": {"layer_decay": 1.0, "name": "lars", "preset": "vicreg", "base_lr": 0.3, "weight_decay": 1e-06, "momentum": 0.9, "eta": 0.001, "clip": false}, "training": {"epochs": 100, "batch_size": 256, "accumulate": 1, "sizes": [], "warmup_epochs": 10, "freeze_epochs": 0, "precision": "fp32", "checkpoint_activations": false, "compile": false, "seed": 0}, "watch": {"collapse_std": 0.01, "collapse_steps": 200, "knn_every_epochs": null, "probe": null, "patience": 3}, "resources": {"workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0}, "checkpoint": {"every_epochs": 1, "min_interval_seconds": 0, "keep": 2}, "evaluations": [], "extends": null}','{"kind": "pretrain", "data": {"source": "digits"}, "name": "paused"}',3,'paused','paused by the user',NULL,NULL,NULL,NULL,'run-01a222676d5f94a5da46','1',NULL,'{}','2026-01-01 00:00:06.000000','2026-01-01 00:00:07.000000',NULL,NULL,NULL,NULL,NULL,NULL,NULL,6,1,1.0,0.0,1,NULL,NULL,'null',NULL,1,NULL,1,NULL,NULL,NULL,NULL,'9f10e045c198c18fdfb1fcaaf3bddcac2bcf7e1f9f9a21c98a8d27317eee965c',NULL);
INSERT INTO "jobs" VALUES('01a222676db3535d7516','pretrain','between','default',0,'{"kind": "pretrain", "name": "between", "experiment": "default", "labels": {}, "priority": 0, "depends_on": [], "condition": "succeeded", "start_after": null, "deadline": null, "max_runtime": null, "preemptible": true, "retry": {"max_attempts": 9}, "method": {"invariance": 25.0, "variance": 25.0, "covariance": 1.0, "name": "vicreg"}, "backbone": {"name": "resnet18", "stem": "imagenet", "patch_size": 16, "drop_path": 0.0}, "init": null, "expander": {"layers": [2048, 2048, 2048], "batchnorm": true, "normalization": "none"}, "branches": {"weights": "shared", "backbone": null, "momentum": 0.99, "stop_gradient": false, "predictor": null}, "data": {"share": 1.0, "share_seed": 0, "hold": "auto", "source": "digits", "split": "train", "image_size": 32}, "augmentation": {"preset": "vicreg", "views": {"global": 2, "local": 0, "local_size": 96, "local_scale": null}, "crop_scale": [0.08, 1.0], "horizontal_flip": 0.5, "color_jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "grayscale": 0.2, "blur": [1.0, 0.1], "solarize": [0.0, 0.2], "resample": "torch"}, "optimizer": {"layer_decay": 1.0, "name": "lars", "preset": "vicreg", "base_lr": 0.3, "weight_decay": 1e-06, "momentum": 0.9, "eta": 0.001, "clip": false}, "training": {"epochs": 100, "batch_size": 256, "accumulate": 1, "sizes": [], "warmup_epochs": 10, "freeze_epochs": 0, "precision": "fp32", "checkpoint_activations": false, "compile": false, "seed": 0}, "watch": {"collapse_std": 0.01, "collapse_steps": 200, "knn_every_epochs": null, "probe": null, "patience": 3}, "resources": {"workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0}, "checkpoint": {"every_epochs": 1, "min_interval_seconds": 0, "keep": 2}, "evaluations": [], "extends": null}','{"kind": "pretrain", "data": {"source": "digits"}, "retry": {"max_attempts": 9}, "name": "between"}',9,'queued','attempt 1 of 9 failed, the next starts in 5 s: the driver exited with code 137; see its log',NULL,NULL,NULL,'2026-01-01 00:00:15.000000','run-01a222676db3535d7516','1',NULL,'{}','2026-01-01 00:00:09.000000',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,6,1,1.0,0.0,1,NULL,NULL,'null',NULL,1,NULL,1,NULL,NULL,NULL,NULL,'9f10e045c198c18fdfb1fcaaf3bddcac2bcf7e1f9f9a21c98a8d27317eee965c',NULL);
INSERT INTO "jobs" VALUES('01a222676dd4903e420e','sweep','search','default',0,'{"kind": "sweep", "name": "search", "experiment": "default", "labels": {}, "priority": 0, "depends_on": [], "condition": "succeeded", "start_after": null, "deadline": null, "max_runtime": null, "preemptible": true, "retry": {"max_attempts": 3}, "base": {"kind": "pretrain", "data": {"source": "digits"}, "watch": {"knn_every_epochs": 1}, "method": {"name": "vicreg"}}, "space": {"method.variance": {"choice": [1, 25]}}, "objective": {"metric": "knn/top1", "mode": "max", "value": "best"}, "search": {"algorithm": "random", "trials": 16, "seeds": 2, "seed": 0}, "scheduler": {"name": "asha", "grace_epochs": 1, "reduction_factor": 4}, "concurrency": 2, "promote": false, "extends": null}','{"kind": "sweep", "base": {"data": {"source": "digits"}, "watch": {"knn_every_epochs": 1}}, "space": {"method.variance": {"choice": [1, 25]}}, "search": {"trials": 16, "seeds": 2}, "concurrency": 2, "name": "search"}',3,'starting',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'{}','2026-01-01 00:00:11.000000',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,6,1,1.0,0.0,2,NULL,NULL,'null',NULL,1,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('01a222676e068deb5028','pretrain','queued','default',3,'{"kind": "pretrain", "name": "queued", "experiment": "default", "labels": {}, "priority": 3, "depends_on": [], "condition": "succeeded", "start_after": null, "deadline": null, "max_runtime": null, "preemptible": true, "retry": {"max_attempts": 3}, "method": {"invariance": 25.0, "variance": 25.0, "covariance": 1.0, "name": "vicreg"}, "backbone": {"name": "resnet18", "stem": "imagenet", "patch_size": 16, "drop_path": 0.0}, "init": null, "expander": {"layers": [2048, 2048, 2048], "batchnorm": true, "normalization": "none"}, "branches": {"weights": "shared", "backbone": null, "momentum": 0.99, "stop_gradient": false, "predictor": null}, "data": {"share": 1.0, "share_seed": 0, "hold": "auto", "source": "digits", "split": "train", "image_size": 32}, "augmentation": {"preset": "vicreg", "views": {"global": 2, "local": 0, "local_size": 96, "local_scale": null}, "crop_scale": [0.08, 1.0], "horizontal_flip": 0.5, "color_jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "grayscale": 0.2, "blur": [1.0, 0.1], "solarize": [0.0, 0.2], "resample": "torch"}, "optimizer": {"layer_decay": 1.0, "name": "lars", "preset": "vicreg", "base_lr": 0.3, "weight_decay": 1e-06, "momentum": 0.9, "eta": 0.001, "clip": false}, "training": {"epochs": 100, "batch_size": 256, "accumulate": 1, "sizes": [], "warmup_epochs": 10, "freeze_epochs": 0, "precision": "fp32", "checkpoint_activations": false, "compile": false, "seed": 0}, "watch": {"collapse_std": 0.01, "collapse_steps": 200, "knn_every_epochs": null, "probe": null, "patience": 3}, "resources": {"workers": 4, "cpus_per_worker": 1, "gpus_per_worker": 0}, "checkpoint": {"every_epochs": 1, "min_interval_seconds": 0, "keep": 2}, "evaluations": [], "extends": null}','{"kind": "pretrain", "data": {"source": "digits"}, "priority": 3, "resources": {"workers": 4}, "name": "queued"}',3,'queued','waits for a larger cluster: it needs 4 × 1 CPU, and the cluster has 1 node(s) with 3 CPUs and 0 GPUs',NULL,NULL,NULL,NULL,NULL,NULL,NULL,'{}','2026-01-01 00:00:12.000000',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,6,4,1.0,0.0,1,NULL,NULL,'null',NULL,1,NULL,1,NULL,NULL,NULL,NULL,'9f10e045c198c18fdfb1fcaaf3bddcac2bcf7e1f9f9a21c98a8d27317eee965c',NULL);
CREATE TABLE leases (
	name VARCHAR(64) NOT NULL, 
	holder VARCHAR(64) NOT NULL, 
	expires_at DATETIME NOT NULL, token INTEGER DEFAULT '0' NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "leases" VALUES('dispatcher','vm-15890-01a222676cc5e40f2dfd','2026-01-01 00:00:27.000000',1);
CREATE TABLE owner_usage (
	owner VARCHAR(200) NOT NULL, 
	amount FLOAT NOT NULL, 
	at DATETIME NOT NULL, 
	PRIMARY KEY (owner)
);
INSERT INTO "owner_usage" VALUES('',5.99977537471291544335e+00,'2026-01-01 00:00:10.000000');
CREATE TABLE queue_view (
	id INTEGER NOT NULL, 
	at DATETIME NOT NULL, 
	content JSON NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "queue_view" VALUES(1,'2026-01-01 00:00:12.000000','{"policy": "backfill", "nodes": [[3.0, 0.0]], "taken": [[0.0, 0.0]], "places": [{"id": "01a222676e068deb5028", "position": 1, "by": [], "at": null, "basis": null}], "had": [[[3.0, 0.0, 1]]]}');
CREATE TABLE schedules (
	id VARCHAR(64) NOT NULL, 
	name VARCHAR(200) NOT NULL, 
	spec JSON NOT NULL, 
	paused BOOLEAN NOT NULL, 
	next_tick DATETIME, 
	runs INTEGER NOT NULL, 
	created_at DATETIME NOT NULL, 
	updated_at DATETIME NOT NULL, owner VARCHAR(200), spec_version INTEGER, 
	PRIMARY KEY (id)
);
INSERT INTO "schedules" VALUES('01a222676dfe82d21337','nightly','{"name": "nightly", "cron": "30 2 * * *", "timezone": "Europe/Paris", "job": {"kind": "pretrain", "data": {"source": "digits"}}, "overlap": "skip", "catch_up": "last", "catch_up_limit": 10, "jitter": "PT0S", "ends_at": null, "max_runs": null}',0,'2026-01-01 01:30:00.000000',0,'2026-01-01 00:00:11.000000','2026-01-01 00:00:11.000000',NULL,6);
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
CREATE TABLE webhook (
	id INTEGER NOT NULL, 
	told BIGINT NOT NULL, 
	PRIMARY KEY (id)
);
CREATE INDEX ix_attempts_unarchived ON attempts (ended_at) WHERE archived_at IS NULL;
CREATE UNIQUE INDEX ux_attempts_live ON attempts (job_id) WHERE ended_at IS NULL;
CREATE INDEX ix_events_job ON events (job_id, id);
CREATE INDEX ix_job_labels ON job_labels ("key", value, job_id);
CREATE INDEX ix_jobs_queue ON jobs (state, priority, id);
CREATE INDEX ix_jobs_experiment ON jobs (experiment, id);
CREATE INDEX ix_jobs_depends_on ON jobs (depends_on);
CREATE UNIQUE INDEX ux_jobs_promoted_from ON jobs (promoted_from);
CREATE INDEX ix_dependencies_depends_on ON dependencies (depends_on);
CREATE INDEX ix_jobs_schedule_id ON jobs (schedule_id, id);
CREATE INDEX ix_jobs_deadline ON jobs (deadline) WHERE finished_at IS NULL;
CREATE INDEX ix_schedules_next_tick ON schedules (next_tick);
CREATE INDEX ix_api_keys_name ON api_keys (name);
CREATE INDEX ix_jobs_owner ON jobs (owner) WHERE finished_at IS NULL;
CREATE INDEX ix_jobs_unclosed ON jobs (finished_at) WHERE run_closed_at IS NULL AND run_id IS NOT NULL;
CREATE INDEX ix_attempts_ended_at ON attempts (ended_at);
CREATE INDEX ix_jobs_parent ON jobs (parent_id, id);
CREATE INDEX ix_jobs_parent_name ON jobs (parent_id, name, id);
CREATE INDEX ix_jobs_parent_state ON jobs (parent_id, state);
CREATE INDEX ix_jobs_listed ON jobs (kind, state, experiment, owner, parent_id, priority, created_at, finished_at, id, name);
CREATE INDEX ix_browser_sessions_expires_at ON browser_sessions (expires_at);
CREATE INDEX ix_jobs_step_cost ON jobs (step_cost, workers, state, id);
CREATE INDEX ix_jobs_relabelled ON jobs (relabelled_at) WHERE relabelled_at IS NOT NULL AND run_id IS NOT NULL;
COMMIT;
