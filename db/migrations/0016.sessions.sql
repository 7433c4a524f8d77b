-- Sessions: who has logged in to the dashboard with a token. They end with their token.
-- depends: 0015.fleet

CREATE TABLE taskflow.sessions (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    token_id   bigint NOT NULL REFERENCES taskflow.tokens ON DELETE CASCADE,
    hash       bytea NOT NULL,                 -- SHA-256 of the secret, which only the browser keeps
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,

    CONSTRAINT a_sessions_hash_has_32_bytes CHECK (octet_length(hash) = 32)
);

CREATE INDEX sessions_by_token ON taskflow.sessions (token_id);
CREATE INDEX sessions_by_end ON taskflow.sessions (expires_at);
