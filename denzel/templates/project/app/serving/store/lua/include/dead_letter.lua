-- Dead letters: messages that are not delivered any more, kept for a month with what their records hold of the
-- callback, as the records expire.
-- @include common

-- What is stored for a task that failed, as errors.py makes it for an exception.
local function failure(kind, reason)
    local text = cjson.encode(reason)
    return string.format('{"args":[%s],"error":{"type":"%s","message":%s}}', text, kind, text)
end

local DEAD_LETTER_TTL = 30 * 24 * 3600

local function dead_letter(task_id, message, deliveries, reason)
    local letter = DEAD_LETTER .. task_id
    redis.call('ZREMRANGEBYSCORE', DEAD_LETTERS, '-inf', now() - DEAD_LETTER_TTL)
    redis.call('ZADD', DEAD_LETTERS, now(), task_id)
    redis.call('HSET', letter, 'message', message, 'deliveries', deliveries, 'reason', reason)
    redis.call('EXPIRE', letter, DEAD_LETTER_TTL)
    for _, field in ipairs({'callback_uri', 'receiver', 'replays'}) do
        local value = redis.call('HGET', TASK .. task_id, field)
        if value then
            redis.call('HSET', letter, field, value)
        end
    end
end
