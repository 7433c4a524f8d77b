-- Tokens: what lets a request in. Made, listed and revoked with `taskflow token`.
-- depends: 0004.functions

-- What a token may be used for. No scope includes another, except that admin includes all.
CREATE TYPE taskflow.scope AS ENUM ('read', 'enqueue', 'work', 'operate', 'admin');

CREATE TABLE taskflow.tokens (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       taskflow.label NOT NULL,
    scopes     taskflow.scope[] NOT NULL,
    hash       bytea NOT NULL,                 -- SHA-256 of the secret, which is random and stored nowhere
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,                    -- null: never
    revoked_at timestamptz,

    CONSTRAINT a_tokens_name_is_not_an_id CHECK (name !~ '^[0-9]+$'),
    CONSTRAINT a_token_has_a_scope CHECK (cardinality(scopes) >= 1 AND array_position(scopes, NULL) IS NULL),
    CONSTRAINT a_hash_has_32_bytes CHECK (octet_length(hash) = 32)
);

CREATE UNIQUE INDEX tokens_live ON taskflow.tokens (name) WHERE revoked_at IS NULL;
