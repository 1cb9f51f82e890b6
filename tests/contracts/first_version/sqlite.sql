CREATE TABLE "backjob" (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, status INTEGER NOT NULL, progress INTEGER NOT NULL, output_size INTEGER NOT NULL, output_truncated INTEGER NOT NULL, created_time INTEGER NOT NULL, start_time INTEGER NOT NULL, deliver_by INTEGER NOT NULL, updated_time INTEGER NOT NULL, end_time INTEGER, error_timeout INTEGER NOT NULL, attempt INTEGER NOT NULL, version INTEGER NOT NULL, held INTEGER NOT NULL, depth INTEGER NOT NULL, token TEXT, lessee TEXT, lease_until INTEGER, merge_key TEXT, owner TEXT, scope TEXT NOT NULL, request TEXT, status_text TEXT, result TEXT, sealed BLOB, has_body INTEGER NOT NULL);
CREATE UNIQUE INDEX backjob_merging ON "backjob" (merge_key) WHERE merge_key IS NOT NULL;
CREATE INDEX backjob_living ON "backjob" (status, start_time) WHERE status < 2;
CREATE INDEX backjob_ended ON "backjob" (status) WHERE status >= 2;
CREATE INDEX backjob_ageing ON "backjob" (status, end_time) WHERE status >= 2;
CREATE INDEX backjob_owned ON "backjob" (owner) WHERE owner IS NOT NULL;
CREATE INDEX backjob_scoped ON "backjob" (scope) WHERE scope <> '';
CREATE TABLE "backjob_body" (job INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE "backjob_output" (job INTEGER NOT NULL, start INTEGER NOT NULL, piece BLOB NOT NULL, PRIMARY KEY (job, start)) WITHOUT ROWID;
