"""The words of catalogues: platforms, what is delivered there, to what, in which manner, where, of which quality.

Tables alone,
    and how they are looked up. Names come in many languages and abbreviations; what the tables do not know is
an unknown word for whoever reads a name, never nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Final

from aggregator.domain.likeness import ADORNMENTS


class Part(StrEnum):
    """What a word says of a service."""

    PLATFORM = "platform"
    ACTION = "action"
    OBJECT = "object"
    MANNER = "manner"
    PLACE = "place"
    QUALITY = "quality"
    NOTHING = "nothing"


# One thing a line: its name, then the other words for it. A word that ends in "s" is known without it as well.
_PLATFORMS: Final = """
instagram: ig, insta, инстаграм, инстаграмм, انستغرام, انستقرام, انستا
tiktok: tik tok, tt, тикток, تيك توك, 抖音
youtube: yt, you tube, ютуб, يوتيوب
facebook: fb, фейсбук, فيسبوك
twitter: x, twitter x, твиттер, تويتر
telegram: tg, tele, телеграм, телеграмм, تيليجرام, تلجرام, تلغرام
threads: thread
snapchat: snap, سناب شات
spotify: спотифай
soundcloud: sound cloud
apple music
deezer
tidal
audiomack
shazam
twitch: твич
kick
rumble
trovo
discord: дискорд
whatsapp: wa, whats app, واتساب
linkedin: linked in
pinterest
reddit
quora
tumblr
vk: vkontakte, вк, вконтакте
ok ru: odnoklassniki, одноклассники
likee
kwai: kuaishou
bigo: bigo live
dailymotion
vimeo
clubhouse
bluesky: blue sky
onlyfans: only fans
google
trustpilot
tripadvisor
yelp
imdb
website: websites, web, site, сайт
play store: google play
app store
shopee
tokopedia
lazada
roblox
patreon
github
coinmarketcap: coin market cap, cmc
opensea
wechat: we chat, 微信
weibo: 微博
gmail: google mail, gmails
outlook
hotmail
yahoo: ymail
icloud
protonmail: proton, proton mail
xiaohongshu: rednote, 小红书
bilibili
naver
kakao
rutube
dzen: яндекс дзен
viber
"""
_ACTIONS: Final = """
followers: follower, follow, fans, followrs, подписчики, подписчиков, подписка, seguidores, seguidor, takipci,
    takipcisi,
    abonnes, متابعين, متابع, متابعون, 粉丝, 팔로워, フォロワー, pengikut
likes: like, hearts, heart, лайки, лайков, лайк, curtidas, me gusta, begeni, begenisi, لايكات, لايك, اعجابات,
    إعجابات, 点赞,
    좋아요, いいね, j aime
dislikes: dislike, дизлайки
views: view, просмотры, просмотров, visualizacoes, visualizaciones, vistas, izlenme, vues, مشاهدات, مشاهدة, 观看, 조회수
viewers: viewer, spectators, watchers, concurrent viewers, concurrent watchers, зрители, зрителей, izleyici
plays: play, прослушивания
streams
listeners: listener
subscribers: subscriber, subs, subscribe, inscritos, suscriptores, abone, مشتركين, مشترك, 订阅
members: member, участники, участников, membros, miembros, uye, uyesi, أعضاء, اعضاء
comments: comment, комментарии, комментариев, comentarios, yorum, commentaires, تعليقات, 评论, 댓글
replies: reply
shares: share, репосты, поделиться, compartidos, compartilhamentos, paylasim, مشاركات, مشاركة
retweets: retweet, rt
reposts: repost
quotes: quote, quote tweets
saves: save, saved, сохранения, kaydetme, حفظ
favorites: favorite, favourites, favourite, favs, fav
bookmarks: bookmark
reactions: reaction, react, реакции, реакция, تفاعلات, تفاعل
votes: vote, голоса, oy
upvotes: upvote
downvotes: downvote
reach: охват, erisim, وصول
impressions: impression, показы, gosterim
visits: visit, visitors, visitor, посещения
traffic: трафик, trafik, زيارات
clicks: click, клики
watchtime: watch time, watch hours, watch hour, watchhours, view hours
mentions: mention, упоминания
messages: message, dms, dm, mass dm
invites: invite, приглашения
friends: friend, friend requests, друзья
connections: connection
endorsements: endorsement
boosts: boost, server boost, server boosts
bot starts: bot start, bot users, start bot
reviews: review, отзывы
ratings: rating
stars: star
downloads: download
installs: install
backlinks: backlink
pins: pin
repins: repin
gifts: gift
coins: coin
joins: join
awards: award
checkins: checkin, check ins, check in
events: event, event responses, interested, going
referrals: referral, referal, refs
likers: liker
screenshots: screenshot, screen shots
engagements: engagement
profile clicks
claps: clap
hypes: hype
points
"""
_OBJECTS: Final = """
post: posts, пост, посты, постов, gonderi, publicaciones, منشورات, منشور, публикации
photo: photos, picture, pictures, pic, pics, фото, foto, fotos
image: images
video: videos, видео, vid, vids, فيديو, 视频
story: stories, сторис, история, истории, hikaye, ستوري
reel: reels, рилс, ريلز, 릴스
igtv
short: shorts, шортс, شورت
live: live stream, livestream, live streams, livestreams, live streaming, live video, livestreaming, прямой эфир,
    трансляция, canli, canli yayin, بث مباشر, lives
profile: profiles, профиль
account
page: pages, страница, sayfa, صفحة, صفحات, fanpage, fan page, pagina
group: groups, группа, группы, группу, grup, grupo, مجموعة, مجموعات, chat, supergroup
channel: channels, канал, канала, kanal, canal, قناة, قنوات
playlist: playlists, плейлист
album: albums
track: tracks, song, songs, трек
artist: artists
podcast: podcasts, episode, episodes
tweet: tweets
space: spaces
broadcast channel
highlight: highlights
comment likes: comments likes, likes on comment, likes on comments, comment like
community
board: boards
poll: polls, опрос
company: company page, business page
music: sound, audio
premiere
clip: clips
collection
"""
_MANNERS: Final = """
custom: customized, свои, ozel, مخصصة
random: случайные, rastgele, عشوائية
emoji: emojis, emoticon
positive: pozitif, позитивные, ايجابية, إيجابية
negative: негативные, سلبية
auto: automatic, авто
future: upcoming
past: old posts
last
female: females, women, woman, girls, girl, женщины, женские, kadin, بنات
male: males, men, man, boys, boy, мужчины, мужские, erkek
adult
kids
premium: премиум
free
verified: blue tick, bluetick, blue badge, tick, галочка
unverified
nft: nfts
crypto: крипто
targeted: targeting, geo targeted, geo
retention: high retention, удержание
monetizable: monetized, monetization, monetisation
ads: ad, adwords, google ads, реклама
suggested
search: from search, seo, keyword, keywords
external
direct
browse
social
referral traffic
unique
mobile: android, ios, iphone
desktop
online: онлайн
offline: оффлайн, офлайн
private: закрытый, ozel kanal
public: открытый
power
influencer: influencers
giveaway: giveaways, contest
package: pack, combo, пакет
drip: dripfeed, drip feed
exclusive list
hidden
anonymous
silent
permanent
temporary
monthly
fresh: newly created
pva: phone verified, phone verified account, phone verified accounts
email verified: mail verified
"""
_QUALITIES: Final = """
real: real accounts, real account, real users, real people, real profiles, real user, human, humans, genuine,
    authentic,
    реальные, живые, gercek, reais, reales, حقيقي, حقيقيين, حقيقية, real data
real looking
active: активные, aktif, активных, active accounts, active users
organic: органические
bot: bots, fake, fakes, боты, ботов, bot data, bot accounts, sahte, وهمي, وهميين
high quality: hq, hight quality, high quality accounts, высокое качество, yuksek kalite, جودة عالية
premium quality
top quality: super quality, uhq, best quality, ultra high quality
medium quality: mq
low quality: lq, низкое качество, cheap quality
mixed: mix, mix quality, mixed quality
aged: old, old accounts, old account, aged accounts, aged account, old data, старые аккаунты, старые, eski
non drop: no drop, non drops, nodrop, nondrop, zero drop, never drop, no drops
stable
natural: natural pattern, natural growth
low drop: less drop, lower drop, little drop
high drop: drops fast
with posts: have posts
with avatar: profile picture, profile pictures, with profile picture, with picture, with pictures, avatars
"""
_NOTHING: Final = """
account accounts acc accs data user users people person profile quality speed start instant delivery complete
completion link url support statistics button working works work cheapest cheaper provider providers direct source
own market world best seller bestseller recommend recommended most popular hot sale flash offer discount promo price
low cost new update updated latest ultra mega super turbo express rapid hyper lightning medium normal average slowly
gradual gradually safe secure trusted password without required require needed need login permission flag flags all
type types any every each mixed select option options version method panel smm buy get order orders service services
serv emergency backup alternative exclusive special unique high top rated big bulk unlimited limit limits unlim
infinity note read description desc before see please here more less only both and or with for of the a an in on to
by from per your our my is are be can will may it this that via at as x now rule rules duration concurrent cancel
cancellation cancelable enable enabled disable disabled available allowed accept accepted drop drops dropping
dropped rate ratio sometimes possible chance refil refill refills refillable refilling warranty guarantee guaranteed
garanti гарантия гарантией докрутка докруткой быстро быстрые быстрый скорость старт день сутки hizli telafili telafi
kaliteli garantili ضمان تعويض سريع سرعة instante rapido rapidos garantia reposicion reposicao dia dias hora horas
day days daily hour hours hourly minute minutes min mins max maximum minimum second seconds week weeks month months
year years h d m k
"""
_PLACES: Final = """
anywhere: worldwide, world wide, ww, global, international, all countries, any country, mix countries, весь мир, мир
us: usa, america, american, americans, united states, united states of america, u s a, u s, сша,
    الولايات المتحدة, أمريكا,
    امريكا, eeuu, abd, estados unidos
gb: uk, britain, british, great britain, united kingdom, england, english, u k
ca: canada, canadian
au: australia, australian, aussie
nz: new zealand
ie: ireland, irish
de: germany, german, deutschland, германия, almanya
fr: france, french, франция
es: spain, spanish, espana
it: italy, italian, italia
pt: portugal, portuguese
nl: netherlands, dutch, holland
be: belgium, belgian
ch: switzerland, swiss
at: austria, austrian
se: sweden, swedish
no: norway, norwegian
dk: denmark, danish
fi: finland, finnish
is: iceland
pl: poland, polish
cz: czech, czechia, czech republic
sk: slovakia, slovak
si: slovenia
hu: hungary, hungarian
ro: romania, romanian
bg: bulgaria, bulgarian
gr: greece, greek
rs: serbia, serbian
hr: croatia, croatian
ba: bosnia
al: albania, albanian
mk: macedonia
lt: lithuania, lithuanian
lv: latvia, latvian
ee: estonia, estonian
ua: ukraine, ukrainian, украина, украинские
by: belarus, беларусь
md: moldova
ru: russia, russian, россия, русские, российские, rusya, روسيا
kz: kazakhstan, казахстан
uz: uzbekistan, uzbek, узбекистан
az: azerbaijan
am: armenia, armenian
ge: georgia
kg: kyrgyzstan
tj: tajikistan
tm: turkmenistan
tr: turkey, turkish, turkiye, turk, турция, تركيا
il: israel, israeli
ir: iran, iranian, persian, ايران
iq: iraq, iraqi, العراق, عراقي
sa: saudi, ksa, saudi arabia, saudi arabian, السعودية, سعودي, سعوديين
ae: uae, emirates, dubai, emirati, united arab emirates, الامارات
kw: kuwait, kuwaiti, الكويت
qa: qatar, qatari, قطر
om: oman, omani
bh: bahrain
ye: yemen
jo: jordan
lb: lebanon, lebanese
sy: syria, syrian
ps: palestine
eg: egypt, egyptian, مصر, مصري
ma: morocco, moroccan, المغرب
dz: algeria, algerian, الجزائر
tn: tunisia, tunisian
ly: libya
sd: sudan
ng: nigeria, nigerian
ne: niger
gh: ghana, ghanaian
ke: kenya, kenyan
za: south africa, south african
et: ethiopia, ethiopian
tz: tanzania
ug: uganda
cm: cameroon
sn: senegal
ci: ivory coast
in: india, indian, indians, индия, hindistan, الهند
pk: pakistan, pakistani
bd: bangladesh, bangladeshi
lk: sri lanka
np: nepal, nepali
af: afghanistan, afghan
cn: china, chinese, китай, 中国
hk: hong kong
tw: taiwan, taiwanese
jp: japan, japanese, 日本
kr: korea, korean, south korea, 한국, 한국인
mn: mongolia
vn: vietnam, vietnamese, viet nam
th: thailand, thai
id: indonesia, indonesian, indo
my: malaysia, malaysian
sg: singapore
ph: philippines, filipino, pinoy
kh: cambodia
la: laos
mm: myanmar
br: brazil, brazilian, brasil, brasileiros, brasileiro, brazilians, бразилия, البرازيل
ar: argentina, argentinian
mx: mexico, mexican, mexicanos
co: colombia, colombian
cl: chile, chilean
pe: peru, peruvian
ve: venezuela, venezuelan
ec: ecuador
bo: bolivia
uy: uruguay
py: paraguay
do: dominican republic, dominican
pr: puerto rico
cu: cuba
cr: costa rica
pa: panama
gt: guatemala
africa: african
asia: asian, asians
europe: european, eu
arab: arabic, arabs, arabian, arab countries, middle east, gulf, khaleeji, عرب, عربي, عربية, خليجي
latin: latino, latina, latam, latin america, latinos
cis: снг
scandinavia: scandinavian, nordic
"""

_LETTER: Final = re.compile(r"[^\W\d_]+")
_MARKS: Final = re.compile(r"[\u0300-\u036f\u0610-\u061a\u0640\u064b-\u065f\u200b-\u200f\u2060\ufe0e\ufe0f]")
_STYLED: Final = {
    **dict(zip(map(ord, "ᴀʙᴄᴅᴇꜰғɢʜɪᴊᴋʟᴍɴᴏᴘǫʀꜱᴛᴜᴠᴡʏᴢı"), "abcdeffghijklmnopqrstuvwyzi", strict=True)),
    **{start + place: chr(ord("a") + place) for start in (0x1F150, 0x1F170, 0x1F130) for place in range(26)},
}
"""Small capitals, and letters in circles and squares, which NFKC leaves as they are or puts in brackets."""
_LOOKALIKES: Final = dict(zip(map(ord, "асеіорхуԁһјѕ"), "aceiopxydhjs", strict=True))
"""Cyrillic letters in the midst of Latin ones."""
_MIXED: Final = re.compile(r"[^\W\d_]*(?:[a-z][асеіорхуԁһјѕ]|[асеіорхуԁһјѕ][a-z])[^\W\d_]*")


def fold(text: str) -> str:
    """A text as it is looked up: small letters of the plainest form, without accents, styles and lookalikes."""
    if text.isascii():
        return text.casefold()
    text = unicodedata.normalize("NFKC", text.translate(_STYLED)).casefold().translate(_STYLED)
    text = _MARKS.sub("", unicodedata.normalize("NFD", text))
    text = unicodedata.normalize("NFC", text)
    return _MIXED.sub(lambda found: found[0].translate(_LOOKALIKES), text)


def _entries(table: str) -> Iterator[tuple[str, str]]:
    """(word or words, what they stand for) of a table; a line that is indented goes on with the one above."""
    for line in re.sub(r"\n +", " ", table).strip().splitlines():
        name, _, others = line.partition(":")
        yield name, name
        for other in filter(None, (word.strip() for word in others.split(","))):
            yield other, name


def _known() -> dict[str, tuple[Part, str]]:
    known: dict[str, tuple[Part, str]] = {}
    tables = (
        (Part.PLATFORM, _PLATFORMS),
        (Part.ACTION, _ACTIONS),
        (Part.OBJECT, _OBJECTS),
        (Part.QUALITY, _QUALITIES),
        (Part.MANNER, _MANNERS),
        (Part.PLACE, _PLACES),
    )
    for part, table in tables:
        for words, name in _entries(table):
            if part is Part.PLACE and words == name and len(name) == 2:
                continue  # a code: two letters in the midst of a sentence are seldom a country
            key = " ".join(_LETTER.findall(fold(words)))
            known.setdefault(key, (part, name))
    for word in (*_NOTHING.split(), *ADORNMENTS):
        known.setdefault(fold(word), (Part.NOTHING, word))
    return known


WORDS: Final[Mapping[str, tuple[Part, str]]] = _known()
"""What a folded word, or several with a space between them, stands for."""
LONGEST: Final = max(words.count(" ") + 1 for words in WORDS)
"""Words in the longest of its entries."""
CODES: Final = frozenset(name for _, name in _entries(_PLACES) if len(name) == 2)
"""Countries, by ISO 3166-1."""
OPPOSITES: Final = (("real", "bot"), ("active", "bot"), ("organic", "bot"), ("high quality", "low quality"))
"""Qualities of which nobody means both."""

_IMPLIED: Final[Mapping[str, Mapping[str, str]]] = {
    "instagram": {
        "followers": "profile account",
        "likes": "post photo image",
        "comments": "post photo image",
        "saves": "post photo image",
        "shares": "post photo image",
        "views": "video",
        "impressions": "post photo image",
        "reach": "post photo image",
    },
    "tiktok": {
        "followers": "profile account",
        **dict.fromkeys(("views", "likes", "shares", "saves", "comments", "favorites"), "video post"),
    },
    "youtube": {
        "subscribers": "channel",
        **dict.fromkeys(("views", "likes", "dislikes", "comments", "shares", "watchtime"), "video"),
    },
    "twitter": {
        "followers": "profile account",
        **dict.fromkeys(("likes", "retweets", "comments", "bookmarks", "impressions", "quotes"), "tweet post"),
    },
    "telegram": {"views": "post", "reactions": "post"},
    "threads": {"followers": "profile account", "likes": "post"},
    "spotify": {"plays": "track", "streams": "track", "saves": "track"},
    "soundcloud": {"plays": "track", "likes": "track", "reposts": "track", "followers": "profile"},
    "twitch": {"followers": "channel profile"},
    "kick": {"followers": "channel profile"},
    "linkedin": {"followers": "profile"},
}


def implied(platform: str, action: str) -> frozenset[str]:
    """Objects that go without saying: views on TikTok are of videos."""
    return frozenset(_IMPLIED.get(platform, {}).get(action, "").split())
