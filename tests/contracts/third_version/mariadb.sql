CREATE TABLE backjob (
    seq BIGINT NOT NULL AUTO_INCREMENT,
    id VARBINARY(255) NOT NULL,
    status SMALLINT NOT NULL,
    progress SMALLINT NOT NULL,
    output_size BIGINT NOT NULL,
    output_truncated SMALLINT NOT NULL,
    created_time BIGINT NOT NULL,
    start_time BIGINT NOT NULL,
    deliver_by BIGINT,
    updated_time BIGINT NOT NULL,
    end_time BIGINT,
    error_timeout BIGINT NOT NULL,
    attempt INTEGER NOT NULL,
    version BIGINT NOT NULL,
    held SMALLINT NOT NULL,
    depth INTEGER NOT NULL,
    token VARBINARY(255),
    lessee VARBINARY(255),
    lease_until BIGINT,
    merge_key VARBINARY(255),
    owner VARBINARY(1020),
    scope VARBINARY(1020) NOT NULL,
    label VARBINARY(255) NOT NULL DEFAULT '',
    proof VARBINARY(255),
    root VARBINARY(255),
    waiting_for VARBINARY(255),
    run INTEGER NOT NULL DEFAULT '1',
    delivery INTEGER NOT NULL DEFAULT '1',
    retries INTEGER NOT NULL DEFAULT '0',
    retry_delay BIGINT NOT NULL DEFAULT '10000000',
    queue VARBINARY(1020) NOT NULL DEFAULT 'default',
    slot VARBINARY(255),
    as_owner SMALLINT NOT NULL DEFAULT '0',
    claimed_time BIGINT,
    expires BIGINT,
    request MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    status_text MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    result MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    `history` MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    `cursor` MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    sealed LONGBLOB,
    `body` LONGBLOB,
    PRIMARY KEY (seq),
    CONSTRAINT backjob_id UNIQUE (id)
)ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX backjob_ageing ON backjob (status, label, end_time);

CREATE INDEX backjob_chained ON backjob (root);

CREATE INDEX backjob_ended ON backjob (status, label, seq);

CREATE INDEX backjob_limits ON backjob (status, label, deliver_by, expires);

CREATE INDEX backjob_living ON backjob (status, label, start_time);

CREATE UNIQUE INDEX backjob_merging ON backjob (merge_key);

CREATE INDEX backjob_owned ON backjob (owner, seq);

CREATE INDEX backjob_scoped ON backjob (scope, seq);

CREATE UNIQUE INDEX backjob_slots ON backjob (slot);

CREATE TABLE backjob_output (
    job BIGINT NOT NULL,
    start BIGINT NOT NULL,
    piece BLOB NOT NULL,
    PRIMARY KEY (job, start)
)ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE utf8mb4_bin;
