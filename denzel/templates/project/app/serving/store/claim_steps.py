"""The steps of claims in Redis, as parts of Lua scripts. store/claims.py says what each is for."""

from __future__ import annotations

# Seconds that a note of what a process has taken is kept, unless its worker renews it.
NOTE = "local NOTED_FOR = 3600"

# A message in the hash is JSON: the message, the exchange, the routing key. Ours is never parsed here; it can be long.
MESSAGES = """
local UNACKED_END = ', "", "' .. QUEUE .. '"]'

local function claim_text(message)
    return '[' .. message .. UNACKED_END
end

local function message_of(text)
    return string.sub(text, 2, -#UNACKED_END - 1)
end

local function task_of(message)
    return string.match(message, '"id":%s*"([^"]+)"'), string.match(message, '"delivery_tag":%s*"([^"]+)"')
end
"""

QUARANTINE = """
-- A month, in seconds.
local KEPT_FOR = 30 * 24 * 3600

local function quarantine(task_id, message, deliveries, reason)
    local kept = QUARANTINED .. task_id
    redis.call('ZREMRANGEBYSCORE', QUARANTINE, '-inf', now() - KEPT_FOR)
    redis.call('ZADD', QUARANTINE, now(), task_id)
    redis.call('HSET', kept, 'message', message, 'deliveries', deliveries, 'reason', reason)
    redis.call('EXPIRE', kept, KEPT_FOR)
    -- The record expires, with where its callback goes.
    for _, field in ipairs({'callback_uri', 'receiver', 'replays'}) do
        local value = redis.call('HGET', TASK .. task_id, field)
        if value then
            redis.call('HSET', kept, field, value)
        end
    end
end
"""

# `died` says that a worker died with it: then it counts as a delivery, and the last one ends the task.
GIVE_BACK = """
-- The id of each task that was given up, and why.
local given_up = {}

local function why_given_up(deliveries)
    return 'the worker died while running this task, ' .. (deliveries == 1 and 'once' or deliveries .. ' times')
end

local function give_back(tag, died, most_deliveries, lifetime)
    local text = redis.call('HGET', UNACKED, tag)
    release_claims({tag})
    if not text then
        return
    end
    local message = message_of(text)
    local task_id = task_of(message)
    local task = TASK .. task_id
    if redis.call('HEXISTS', task, 'result') == 1 then
        return
    end
    local deliveries = redis.call('HINCRBY', task, 'deliveries', died and 0 or -1)
    if deliveries >= most_deliveries then
        local reason = why_given_up(deliveries)
        quarantine(task_id, message, deliveries, reason)
        end_tasks({task_id, tag, 'FAILURE', cjson.encode({args = {reason}})}, 1, lifetime)
        given_up[#given_up + 1], given_up[#given_up + 2] = task_id, reason
        return
    end
    redis.call('HSET', task, 'status', 'PENDING', 'since', now())
    redis.call('ZADD', WAITING, redis.call('HGET', task, 'place') or 0, task_id)
    redis.call('RPUSH', QUEUE, message)
end
"""

# Takes what some processes can run: each several tasks in one go, or one alone. A task that was delivered before is
# alone, so that one which kills its process is not taken for another; so is one that another Celery client has sent.
# A process that stays at the queue takes for itself, none that must be alone, and notes what it has.
TAKE = """
local ENOUGH_BYTES = 1024 * 1024
local owner, count_key, free, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local sharing, visit, round = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
if sharing > 0 then
    most = math.max(1, math.min(most, math.ceil(redis.call('LLEN', QUEUE) / sharing)))
end
local time, taken, cancelled, bytes = now(), {}, {}, 0
local places = visit and most or 0
local ids, waited, messages, times, owners = {}, {}, {}, {}, {}

local function add_pair(list, first, second)
    list[#list + 1], list[#list + 2] = first, second
end

local function take(task_id, tag, message, deliveries, since)
    redis.call('HSET', TASK .. task_id, 'status', 'STARTED', 'since', time, 'deliveries', deliveries)
    waited[#waited + 1] = since or tostring(time)
    taken[#taken + 1] = {message, tag, deliveries, waited[#waited]}
    ids[#ids + 1], bytes = task_id, bytes + #message
    add_pair(messages, tag, claim_text(message))
    add_pair(times, time, tag)
    add_pair(owners, tag, owner)
end

-- Large ones are taken a few at a time, so that this, and handing them over, does not take long.
while (places > 0 or free > 0) and bytes < ENOUGH_BYTES do
    local message = redis.call('RPOP', QUEUE)
    if not message then
        break
    end
    local task_id, tag = task_of(message)
    local record = task_id and redis.call('HMGET', TASK .. task_id, 'status', 'deliveries', 'since') or {}
    local status, delivered = record[1], tonumber(record[2] or 0)
    if not (task_id and tag) then
        -- No Celery message: kept, as everything is.
        quarantine(string.format('unreadable-%.6f', now()), message, 0, 'not a message that Celery could have sent')
    elseif status == 'PENDING' or status == 'STARTED' or status == 'RETRY' or (not status and tag ~= task_id) then
        local is_alone = delivered > 0 or tag ~= task_id
        if is_alone and free == 0 then
            redis.call('RPUSH', QUEUE, message)
            break
        elseif is_alone then
            free = free - 1
        else
            if places == 0 then
                free, places = free - 1, most
            end
            places = places - 1
        end
        take(task_id, tag, message, delivered + 1, record[3])
    elseif status == 'REVOKED' then
        cancelled[#cancelled + 1], bytes = {message, record[3] or tostring(time)}, bytes + #message
    end
end
if #ids > 0 then
    in_bulk('ZREM', WAITING, ids)
    in_bulk('HSET', UNACKED, messages)
    in_bulk('ZADD', UNACKED_INDEX, times)
    in_bulk('HSET', OWNERS, owners)
    redis.call('INCRBY', count_key, #ids)
    redis.call('EXPIRE', count_key, 86400)
end
if visit and #ids > 0 then
    redis.call('SET', KEYS[1], cjson.encode({visit, round, ids, waited}), 'EX', NOTED_FOR)
end
return {taken, cancelled}
"""

# What a process that stays at the queue has taken last. A message is there no more when its task has ended.
READ_NOTE = """
local visit, round, ids, waited = unpack(cjson.decode(redis.call('GET', KEYS[1]) or '[]'))
if visit ~= tonumber(ARGV[1]) then
    return {0, {}}
end
local told = {}
for i, task_id in ipairs(ids) do
    local text = redis.call('HGET', UNACKED, task_id)
    told[i] = {task_id, text and message_of(text) or '', waited[i]}
end
return {round, told}
"""

# Renews what this worker has, and what its process at the queue has noted. Gives back what it does not know of (the
# answer that told it was lost, or it dropped it with a broken connection), what an earlier life of it had, and what
# nobody renews. After a time in which nobody looked, because Redis was away or all workers were, everybody gets a new
# chance to renew first. Where nothing is claimed, nothing is written.
RENEW = """
local owner, host, known, timeout = ARGV[1], ARGV[2], cjson.decode(ARGV[3]), tonumber(ARGV[4])
local unknown_for, most_deliveries, lifetime = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local time = now()

local visit, _, noted = unpack(cjson.decode(redis.call('GET', KEYS[1]) or '[]'))
-- A note of an earlier visit says nothing any more.
if visit and visit == tonumber(ARGV[8]) then
    redis.call('EXPIRE', KEYS[1], NOTED_FOR)
    for _, task_id in ipairs(noted) do
        known[task_id] = task_id
    end
end

local function begin_anew()
    for _, tag in ipairs(redis.call('ZRANGE', UNACKED_INDEX, 0, -1)) do
        redis.call('ZADD', UNACKED_INDEX, time, tag)
    end
end

local function look_at(tag, claimant)
    if claimant == owner and known[tag] then
        redis.call('ZADD', UNACKED_INDEX, time, tag)
        return
    end
    local age = time - tonumber(redis.call('ZSCORE', UNACKED_INDEX, tag) or 0)
    if claimant == owner then
        if age > unknown_for then
            give_back(tag, false, most_deliveries, lifetime)
        end
    elseif age > timeout or string.sub(claimant, 1, #host) == host then
        give_back(tag, true, most_deliveries, lifetime)
    end
end

local claims = redis.call('HGETALL', OWNERS)
if #claims > 0 then
    local looked = tonumber(redis.call('GET', LAST_RECLAIM) or 0)
    -- Also when the clock was set back.
    if time - looked > timeout / 2 or time < looked then
        begin_anew()
    end
    redis.call('SET', LAST_RECLAIM, time)
end
for i = 1, #claims, 2 do
    look_at(claims[i], claims[i + 1])
end

local cancelled = {}
for _, task_id in pairs(known) do
    if redis.call('HGET', TASK .. task_id, 'status') == 'REVOKED' then
        table.insert(cancelled, task_id)
    end
end
announce_ends()
return {cancelled, given_up}
"""

# Those whose claim has gone to another worker meanwhile are that one's.
GIVE_BACK_SOME = """
local owner, most_deliveries, lifetime = ARGV[1], tonumber(ARGV[2]), ARGV[3]
-- The last of them is put to the head of the queue first, so that they keep their order.
for i = #ARGV - 1, 4, -2 do
    if redis.call('HGET', OWNERS, ARGV[i]) == owner then
        give_back(ARGV[i], ARGV[i + 1] == 'died', most_deliveries, lifetime)
    end
end
announce_ends()
return given_up
"""

GIVE_ALL_BACK = """
local claims = redis.call('HGETALL', OWNERS)
for i = 1, #claims, 2 do
    if claims[i + 1] == ARGV[1] then
        give_back(claims[i], false, tonumber(ARGV[2]), ARGV[3])
    end
end
announce_ends()
"""

RELEASE = """
if redis.call('HGET', OWNERS, ARGV[2]) == ARGV[1] then
    release_claims({ARGV[2]})
end
"""
