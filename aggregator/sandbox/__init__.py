"""A stateful fake provider on loopback, for people without provider keys, for the demo and for end-to-end tests.

It serves both provider documents, decides every order's fate from a seed, keeps a ledger of what it really accepted,
and breaks on demand. It imports nothing else of this project, so that one misreading cannot hide in both.

Serving: `python -m aggregator.sandbox --port 7070`, or `server.create_app(World(clock=...))` within a test. An account
answers at `/{account}/api/v2`; `/count?link=...` is the public counter of a link; `/control/...` steers and inspects.

What is on sale, by ids that stay: id: name | type | rate | min-max | behaviour | flags.
A rate buys 1000 units, or one order of the two Package types, or one piece of a product (`product_rate_per`).

smmplus (panel_v2, key `sandbox-smmplus-key`, balance 1000.00 USD):

- 1: Instagram Followers [R30] | Default | 0.90 | 50-10000 | complete | refill, cancel
- 2: Instagram Comments | Custom Comments | 8 | 10-1500 | complete | cancel
- 3: Instagram Starter Package | Package | 1.50 | 1-1 | complete
- 4: Google Ranking | SEO | 12.00 | 100-5000 | complete
- 5: Instagram Comments Package | Custom Comments Package | 2.25 | 1-1 | complete
- 6: Instagram Mentions | Mentions | 3.00 | 20-20000 | complete | cancel
- 7: Instagram Mentions + Hashtags | Mentions with Hashtags | 3.10 | 20-20000 | complete
- 8: Instagram Mentions by List | Mentions Custom List | 3.20 | 2-20000 | complete
- 9: Instagram Mentions by Hashtag | Mentions Hashtag | 3.30 | 20-20000 | complete
- 10: Instagram Mentions of Followers | Mentions User Followers | 3.40 | 20-20000 | complete
- 11: Instagram Mentions of Likers | Mentions Media Likers | 3.50 | 20-20000 | complete
- 12: YouTube Comment Likes | Comment Likes | 1.20 | 10-5000 | complete | cancel
- 13: YouTube Comment Replies | Comment Replies | 9.00 | 2-500 | complete
- 14: Telegram Poll Votes | Poll | 0.75 | 10-50000 | complete
- 15: Facebook Group Invites | Invites from Groups | 4.00 | 50-5000 | complete
- 16: Instagram Auto Likes | Subscriptions | 0.60 | 10-5000 | complete | cancel
- 17: Website Traffic | Web Traffic | 0.35 | 100-1000000 | complete
- 18: Instagram Likes [Refill 30 Days] | Default | 0.20 | 20-50000 | drop | refill, cancel
- 19: TikTok Views [No Refill] | Default | 0.02 | 100-1000000 | partial
- 20: YouTube Subscribers | Default | 15.00 | 50-2000 | cancel
- 21: Telegram Members [AR30] | Default | 1.10 | 100-20000 | mixed | refill, cancel
- 22: X Followers | Default | 2.40 | 50-5000 | fail
- 23: Spotify Plays | Default | 0.40 | 500-100000 | stuck | cancel
- 24: Instagram Followers Slow [365 days] | Default | 1.80 | 50-10000 | complete | refill, cancel

smmcheap (panel_v2, key `sandbox-smmcheap-key`, balance 200.00 USD):

- 1: Followers IG 𝐑𝟑𝟎 | Default | 0.62 | 50-5000 | complete | refill, cancel
- 2: Likes IG flash sale | Default | 0.10 | 20-1000 | complete | cancel, stock 1500
- 3: Comments IG | custom comments | 5.50 | 5-500 | complete | cancel
- 4: Views TT | Default | 0.01 | 100-500000 | mixed
- 5: Subscribers YT | Default | 9.80 | 100-1000 | partial | cancel
- 6: Members TG R30 | Default | 0.70 | 100-10000 | drop | refill, cancel
- 7: Reactions IG R30 | Default | 0.30 | 50-5000 | drop | refill

hstock (hstockplus, key `sandbox-hstock-key`, balance 500.00 USD):

- 1: Instagram Followers | Default | 0.50 | 100-10000 | complete | refill, stock 1000000
- 2: Gmail Account - USA | Default | 0.25 | 1-50 | complete | product, stock 5000
- 3: Outlook Account - aged, made to order | Default | 0.40 | 1-20 | complete | product by hand, stock 200
- 4: Facebook Account - 2FA | Default | 1.20 | 1-10 | complete | product, stock 500
- 5: X Account - last ones | Default | 0.15 | 1-10 | complete | product, stock 3
- 6: Instagram Likes | Default | 0.08 | 100-50000 | mixed | refill, stock 1000000
- 7: Instagram Views | Default | 0.03 | 100-100000 | partial | stock 5000000
- 8: Hotmail Account - half delivered | Default | 0.05 | 1-100 | partial | product, stock 1000
- 9: Yahoo Account - supplier gone | Default | 0.10 | 1-20 | cancel | product by hand, stock 100
- 10: TikTok Followers | Default | 1.10 | 100-10000 | complete | refill, stock None
- 65f0aa: OpenAI / ChatGPT | us | 0.5000 | code
- 65f0aa: OpenAI / ChatGPT | gb | 0.6000 | code
- 65f0bb: Telegram | us | 0.8000 | two_codes
- 65f0bb: Telegram | +93 | 0.3500 | code
- 65f0cc: WhatsApp | gb | 0.7500 | expire
- 65f0dd: Google | de | 0.4500 | mixed
- 65f0ee: Instagram | us | 0.3000 | code | stock 5
- 65f0ee: Instagram | us | 0.3500 | code
- 65f0ff: Discord | de | 0.2000 | code | stock 3
- 65f0dc: Uber | gb | 0.2500 | cancel
"""
