-- The seconds that a task takes a process: a moving average over the latest. Tasks that were claimed together are run
-- in turn or together, so each has its share of the time until they have ended.

local RECENT_RUNS = 100
local starts, runs_since = {}, {}

local function count_run(started)
    if not runs_since[started] then
        starts[#starts + 1], runs_since[started] = started, 0
    end
    runs_since[started] = runs_since[started] + 1
end

local function store_run_times(time)
    if #starts == 0 then
        return
    end
    local known = redis.call('HMGET', RUN_TIMES, 'count', 'mean')
    local count, mean = tonumber(known[1] or 0), tonumber(known[2] or 0)
    for _, started in ipairs(starts) do
        local runs = runs_since[started]
        count = count + runs
        local each = math.max(0, time - started) / runs
        mean = mean + (each - mean) * math.min(1, runs / math.min(count, RECENT_RUNS))
    end
    redis.call('HSET', RUN_TIMES, 'count', count, 'mean', mean)
    starts, runs_since = {}, {}
end
